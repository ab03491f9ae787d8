//! The sixteen classic faults of an upstream, plain and streamed: each ends in the best possible result for the client.
//! `docs/reliability.md` has them as a table. Upstreams are scripted and in memory, the clock is paused.

use berry_mock::{Reply, Script};

use crate::fleet::{always, at_first, plan, scripted};

/// No repeats at the same backend: what is counted is failover.
const NO_REPEATS: &str = "max_internal_retries = 0";
const GOOD: &str = "none";

/// The first upstream fails like this before any content, the second is good: the client must not notice.
async fn rescued(fault: &str, streamed: bool, settings: &str) -> f64 {
    let fleet = plan(&[fault, GOOD]).settings(settings).build().await;
    let got = fleet.ask(streamed).await;
    got.assert_clean(streamed, "b", 2, fault);
    assert_eq!(fleet.seen(), [1, 1], "{fault}");
    got.seconds
}

#[tokio::test(start_paused = true)]
async fn f01_a_rate_limited_backend_is_left_for_another_at_once() {
    for streamed in [false, true] {
        assert!(rescued("status:429:1", streamed, "").await < 0.1);
        assert!(rescued("status:429:600", streamed, "").await < 0.1);
    }
}

#[tokio::test(start_paused = true)]
async fn f01_a_short_retry_after_is_waited_out_when_there_is_nobody_else() {
    for streamed in [false, true] {
        let fleet = scripted([at_first(&["status:429:2"])]).build().await;
        let got = fleet.ask(streamed).await;
        got.assert_clean(streamed, "a", 2, "waited");
        assert!((2.0..2.1).contains(&got.seconds), "{}", got.seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn f01_a_long_retry_after_goes_to_the_client_at_once_and_unchanged() {
    for streamed in [false, true] {
        let fleet = scripted([always("status:429:3")]).build().await;
        let got = fleet.ask(streamed).await;
        assert_eq!((got.status(), got.answer.header("retry-after")), (429, "3"), "{}", got.text());
        assert_eq!(fleet.seen(), [1]);
        assert!(got.seconds < 0.1, "{}", got.seconds);
        assert!(got.answer.json()["error"]["message"].is_string(), "the upstream's own words");
    }
}

#[tokio::test(start_paused = true)]
async fn f02_a_rate_limit_for_ever_is_told_with_the_smallest_retry_after() {
    for streamed in [false, true] {
        let fleet = plan(&["status:429:60", "status:429:7", "status:429:30"]).build().await;
        let got = fleet.ask(streamed).await;
        assert_eq!((got.status(), got.answer.header("retry-after")), (429, "7"));
        assert_eq!(got.answer.header("x-berry-provider"), "b", "whose answer it is");
        assert_eq!(fleet.seen(), [1, 1, 1]);
        // All are cooling now: nobody is asked, and the client is told when it is worth coming back.
        let got = fleet.ask(streamed).await;
        assert_eq!((got.status(), got.answer.header("retry-after")), (429, "7"));
        assert_eq!(fleet.seen(), [1, 1, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn f02_a_short_rate_limit_for_ever_ends_after_the_internal_retries() {
    let fleet = plan(&["status:429:1"]).settings("max_internal_retries = 2").build().await;
    let got = fleet.ask(false).await;
    assert_eq!((got.status(), got.answer.header("retry-after")), (429, "1"));
    assert_eq!(fleet.seen(), [3]);
    assert!((2.0..2.2).contains(&got.seconds), "{}", got.seconds);
}

#[tokio::test(start_paused = true)]
async fn f03_one_500_is_retried_elsewhere_or_at_the_only_backend() {
    for streamed in [false, true] {
        rescued("status:500", streamed, "").await;
        let alone = scripted([at_first(&["status:500"])]).build().await;
        let got = alone.ask(streamed).await;
        got.assert_clean(streamed, "a", 2, "alone");
        assert!(got.seconds <= 0.1, "a short back-off: {}", got.seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn f04_a_503_for_ever_is_bypassed_and_alone_it_is_told_as_it_is() {
    for streamed in [false, true] {
        rescued("status:503", streamed, "").await;
        let alone = plan(&["status:503:9"]).settings(NO_REPEATS).build().await;
        let got = alone.ask(streamed).await;
        assert_eq!((got.status(), got.answer.header("retry-after")), (503, "9"));
        assert_eq!(got.answer.header("x-berry-attempts"), "1");
        assert!(got.answer.json()["error"]["message"].is_string());
    }
}

#[tokio::test]
async fn f05_a_tcp_reset_before_any_content_is_rescued() {
    for streamed in [false, true] {
        for fault in ["reset:before-head", "half-head:reset", "reset:head", "reset:0"] {
            let fleet = plan(&[fault, GOOD]).over_sockets().build().await;
            fleet.ask(streamed).await.assert_clean(streamed, "b", 2, fault);
            assert_eq!(fleet.seen(), [1, 1], "{fault}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f06_no_response_fails_over_when_the_providers_time_is_over() {
    for streamed in [false, true] {
        for fault in ["hang", "stall:head"] {
            let seconds = rescued(fault, streamed, "request_timeout_seconds = 6").await;
            assert!((6.0..7.0).contains(&seconds), "{fault}: {seconds}");
        }
        let alone = plan(&["hang"]).settings("request_timeout_seconds = 6\nmax_internal_retries = 0").build().await;
        let got = alone.ask(streamed).await;
        assert_eq!((got.status(), got.answer.error_code().as_str()), (504, "upstream_timeout"));
        assert!((6.0..7.0).contains(&got.seconds), "{}", got.seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn f07_a_slow_first_token_fails_over_silently() {
    let settings = "first_token_timeout_seconds = 2\n";
    for fault in ["slow-first-token:60000", "comments:500", "stall:0", "stall:head"] {
        let seconds = rescued(fault, true, settings).await;
        assert!((2.0..2.5).contains(&seconds), "{fault}: {seconds}");
    }
    // A plain answer has no first token; the silence before it is bounded by the completion timeout.
    let seconds = rescued("slow-first-token:60000", false, "completion_timeout_seconds = 3").await;
    assert!((3.0..3.5).contains(&seconds), "{seconds}");
    // In time is in time.
    let fleet = plan(&["slow-first-token:1500", GOOD]).settings(settings).build().await;
    fleet.ask(true).await.assert_clean(true, "a", 1, "in time");
}

#[tokio::test(start_paused = true)]
async fn f08_a_stream_that_is_cut_after_its_first_token_is_told_and_never_repeated() {
    for fault in ["close:1", "reset:3", "close:5"] {
        let fleet = plan(&[fault, GOOD]).build().await;
        let got = fleet.ask(true).await;
        assert_eq!(got.cut_with(), "stream_incomplete", "{fault}");
        assert!(!got.told().content.is_empty(), "{fault}");
        assert_eq!(fleet.seen(), [1, 0], "{fault}");
        let [line] = &fleet.access()[..] else { panic!("one line") };
        assert_eq!((line["outcome"].as_str(), line["error"].as_str()), (Some("failed"), Some("stream_incomplete")));
    }
}

#[tokio::test]
async fn f08_a_reset_inside_a_stream_is_told_as_well() {
    let fleet = plan(&["reset:3", GOOD]).over_sockets().build().await;
    let got = fleet.ask(true).await;
    assert_eq!(got.cut_with(), "stream_incomplete");
    assert_eq!(fleet.seen(), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn f08_a_plain_answer_that_is_cut_is_rescued() {
    for fault in ["close:1", "reset:1", "truncated-json"] {
        rescued(fault, false, "").await;
    }
}

#[tokio::test(start_paused = true)]
async fn f09_a_stream_that_stalls_is_told_within_the_idle_timeout() {
    let fleet = plan(&["stall:2", GOOD]).settings("stream_idle_timeout_seconds = 40").build().await;
    let got = fleet.ask(true).await;
    assert_eq!(got.cut_with(), "upstream_timeout");
    assert!((40.0..41.5).contains(&got.seconds), "{}", got.seconds);
    assert!(got.text().contains("\n: "), "comments keep the client's side alive meanwhile");
    assert_eq!(fleet.seen(), [1, 0]);
    // A plain answer is not with the client yet.
    let seconds = rescued("stall:1", false, "stream_idle_timeout_seconds = 40").await;
    assert!((40.0..41.5).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn f10_a_malformed_chunk_is_rescued_before_the_first_token_and_told_after_it() {
    for streamed in [false, true] {
        rescued("malformed-chunk:0", streamed, "").await;
    }
    let fleet = plan(&["malformed-chunk:3", GOOD]).build().await;
    let got = fleet.ask(true).await;
    assert_eq!(got.cut_with(), "upstream_error");
    assert!(!got.told().content.is_empty());
    assert_eq!(fleet.seen(), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn f11_a_finish_without_done_is_well_and_no_finish_at_all_is_not() {
    let fleet = plan(&["missing-done"]).build().await;
    let got = fleet.ask(true).await;
    let told = got.told();
    assert_eq!((got.status(), told.finishes, told.errors.len()), (200, 1, 0), "{}", got.text());
    assert_eq!(fleet.access()[0]["outcome"], "complete");

    let fleet = plan(&["missing-terminator", GOOD]).build().await;
    let got = fleet.ask(true).await;
    assert_eq!(got.cut_with(), "stream_incomplete");
    assert!(!got.told().content.is_empty());
    assert_eq!(fleet.seen(), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn f12_a_context_length_error_goes_to_a_larger_window_only() {
    for streamed in [false, true] {
        let windows = |a: &str, b: &str, c: &str| {
            plan(&["context-length", "context-length", GOOD]).backend(0, a).backend(1, b).backend(2, c)
        };
        let fleet = windows("context_window = 8000", "context_window = 8000", "context_window = 32000").build().await;
        fleet.ask(streamed).await.assert_clean(streamed, "c", 2, "a larger window");
        assert_eq!(fleet.seen(), [1, 0, 1]);

        let fleet = windows("context_window = 8000", "context_window = 8000", "context_window = 4000").build().await;
        let got = fleet.ask(streamed).await;
        assert_eq!((got.status(), got.answer.json()["error"]["code"].as_str()), (400, Some("context_length_exceeded")));
        assert_eq!(fleet.seen(), [1, 0, 0], "passed once");
    }
}

#[tokio::test(start_paused = true)]
async fn f13_a_content_filter_never_fails_over() {
    for streamed in [false, true] {
        let fleet = plan(&["content-filter", GOOD]).build().await;
        let got = fleet.ask(streamed).await;
        assert_eq!((got.status(), got.answer.json()["error"]["code"].as_str()), (400, Some("content_filter")));
        assert_eq!(got.answer.header("x-berry-attempts"), "1");
        assert_eq!(fleet.seen(), [1, 0]);
    }
}

/// An upstream that does not take a turn that the assistant has begun.
fn refuses_prefill() -> Script {
    let error =
        r#"{"error":{"message":"prefill is not supported","type":"invalid_request_error","param":null,"code":null}}"#;
    Script { replies: vec![Reply { status: 400, ..Reply::json("/", error) }], ..Script::default() }
}

#[tokio::test(start_paused = true)]
async fn f14_the_refusal_of_a_fallback_is_told_as_the_last_word_on_the_request() {
    for streamed in [false, true] {
        let fleet = scripted([always("status:503"), refuses_prefill(), always(GOOD)]).build().await;
        let got = fleet.ask(streamed).await;
        assert_eq!(got.status(), 400, "{}", got.text());
        assert_eq!(got.answer.json()["error"]["message"], "prefill is not supported");
        assert_eq!((got.answer.header("x-berry-provider"), got.answer.header("x-berry-attempts")), ("b", "2"));
        assert_eq!(fleet.seen(), [1, 1, 0], "a refusal is no reason to try others");
    }
}

#[tokio::test(start_paused = true)]
async fn f14_a_fallback_that_fails_itself_leaves_the_first_error_standing() {
    for streamed in [false, true] {
        let fleet = plan(&["status:503", "status:500"]).settings(NO_REPEATS).build().await;
        let got = fleet.ask(streamed).await;
        assert_eq!(got.status(), 503);
        assert_eq!((got.answer.header("x-berry-provider"), got.answer.header("x-berry-attempts")), ("a", "2"));
        assert_eq!(fleet.access()[0]["provider"], "a", "the record names whose answer it was");
    }
}

#[tokio::test(start_paused = true)]
async fn f15_flapping_is_never_seen() {
    for streamed in [false, true] {
        let flapping = |faults: &[&str]| Script { faults_once: false, ..at_first(faults) };
        let scripts = [flapping(&["status:500", GOOD, "close:before-head"]), flapping(&[GOOD, GOOD, GOOD, "hang"])];
        let fleet = scripted(scripts).settings("request_timeout_seconds = 5").build().await;
        for round in 0..40 {
            let got = fleet.ask(streamed).await;
            assert_eq!(got.status(), 200, "{round}: {}", got.text());
            let provider = got.answer.header("x-berry-provider").to_owned();
            got.assert_whole(streamed, &provider, "flapping");
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f16_head_and_record_name_the_backend_that_answered() {
    for streamed in [false, true] {
        let fleet = plan(&["status:500", "close:before-head", GOOD]).build().await;
        let got = fleet.ask(streamed).await;
        got.assert_clean(streamed, "c", 3, "third");
        let [line] = &fleet.access()[..] else { panic!("one line") };
        assert_eq!((line["provider"].as_str(), line["attempts"].as_u64()), (Some("c"), Some(3)));
        assert_eq!((line["outcome"].as_str(), line["status"].as_u64()), (Some("complete"), Some(200)));
        assert!(line["output_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "its tokens: {line}");
        let status = fleet.gateway.gateway.app().status();
        let counts = |name: &str| {
            let provider = &status.providers[name];
            (provider.total_requests, provider.successful_requests, provider.failed_requests)
        };
        assert_eq!([counts("a"), counts("b"), counts("c")], [(1, 0, 1), (1, 0, 1), (1, 1, 0)]);
    }
}
