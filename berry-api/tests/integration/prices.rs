//! What the server says of prices.

use berry_api::run::unpriced_line;

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
