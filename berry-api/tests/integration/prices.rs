//! What the server says of prices.

use berry_api::run::unpriced_line;

use crate::fleet::plan;
#[cfg(feature = "observability")]
use crate::metrics::{scrape, value};
use crate::support::snapshot;

fn line(provider: &str, backend: &str) -> Option<String> {
    let config = format!(
        "[users.a]\nname = \"a\"\ntoken = \"t\"\n[providers.p]\nname = \"p\"\napi_key = \"k\"\n{provider}\n[models.m]\nname = \"m\"\n\
         [[models.m.backends]]\nprovider = \"p\"\nmodel = \"gpt-4o\"\n{backend}\n"
    );
    unpriced_line(&snapshot(&config))
}

const ELSEWHERE: &str = "base_url = \"https://llm.example/v1\"";

#[test]
fn a_backend_without_a_price_is_named_at_start() {
    assert!(line(ELSEWHERE, "").expect("a line").contains("gpt-4o"));
}

#[test]
fn a_stated_price_even_of_nothing_or_one_of_the_book_is_a_price() {
    assert_eq!(line(ELSEWHERE, "input_price = 0.0\noutput_price = 0.0"), None);
    assert_eq!(line(ELSEWHERE, "[pricing.\"gpt-4o\"]\ninput_price = 1.0"), None);
    assert_eq!(line("base_url = \"https://api.openai.com/v1\"", ""), None);
    assert_eq!(line("backend_type = \"demo\"", ""), None);
    assert_eq!(line(ELSEWHERE, "enabled = false"), None);
}

#[tokio::test(start_paused = true)]
async fn where_backends_without_a_price_are_refused_one_with_a_price_answers_or_nobody() {
    let priced = "input_price = 1.0\noutput_price = 2.0";
    for (settings, second, status) in [
        ("refuse_unpriced = false", "", 200),
        ("refuse_unpriced = true", "", 503),
        ("refuse_unpriced = true", priced, 200),
    ] {
        let fleet = plan(&["none", "none"]).backend(1, second).settings(settings).build().await;
        for _ in 0..4 {
            assert_eq!(fleet.ask(false).await.status(), status, "{settings}, {second}");
        }
        let seen = fleet.seen();
        match (status, second) {
            (200, "") => assert_eq!(seen[0] + seen[1], 4),
            (200, _) => assert_eq!(seen, [0, 4]),
            _ => assert_eq!(seen, [0, 0]),
        }
    }
}

#[cfg(feature = "observability")]
#[tokio::test(start_paused = true)]
async fn requests_without_a_price_and_with_estimated_tokens_are_counted() {
    let plan = plan(&["no-usage", "none"]).backend(1, "input_price = 1.0\noutput_price = 2.0");
    let fleet = plan.strategy("round_robin").build().await;
    for _ in 0..6 {
        assert_eq!(fleet.ask(true).await.status(), 200);
    }
    let page = scrape(&fleet.gateway).await;
    let count = |name: &str, provider: &str| {
        value(&page, &format!("{name}{{provider=\"{provider}\",model=\"up-{provider}\"}}"))
    };
    let seen = fleet.seen();
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    for name in ["berry_unpriced_requests_total", "berry_estimated_requests_total"] {
        assert_eq!((count(name, "a"), count(name, "b")), (seen[0] as f64, 0.0), "{name}");
    }
}
