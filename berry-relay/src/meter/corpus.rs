//! Usage objects as vendors send them, each with what it costs, computed by hand: tokens × nano-dollars a token, bucket by bucket.

use berry_core::money::{NanoUsd, PricePerMillion, Prices};
use berry_core::tariff::{PriceSource, Tariff, TariffRow};
use berry_core::usage::ServiceTier;

use super::usage::read;

fn usd(usd: f64) -> Option<PricePerMillion> {
    Some(PricePerMillion::from_usd(usd).unwrap())
}

fn row(tier: ServiceTier, above_input_tokens: u64, prices: Prices) -> TariffRow {
    TariffRow { tier, above_input_tokens, prices }
}

/// Nano-dollars a token: input 2500, cached 1250, output 10000, audio 40000 in and 80000 out, images 5000 in and 40000 out; flex
/// half of the first three.
fn gpt() -> Tariff {
    let prices = Prices {
        input: usd(2.5),
        cached_input: usd(1.25),
        output: usd(10.0),
        audio_input: usd(40.0),
        audio_output: usd(80.0),
        image_input: usd(5.0),
        image_output: usd(40.0),
        ..Prices::default()
    };
    let flex = Prices { input: usd(1.25), cached_input: usd(0.625), output: usd(5.0), ..Prices::default() };
    let rows = vec![row(ServiceTier::Standard, 0, prices), row(ServiceTier::Flex, 0, flex)];
    Tariff::new(rows, PriceSource::Backend)
}

/// Input 3000, read 300, written 3750 and 6000, output 15000, a search 10 000 000; over 200,000 tokens 6000, 600, 7500, 12000,
/// 22500.
fn claude() -> Tariff {
    let prices = |input, read, write, long_write, output| Prices {
        input: usd(input),
        cached_input: usd(read),
        cache_write: usd(write),
        cache_write_1h: usd(long_write),
        output: usd(output),
        tool_call: Some(NanoUsd::from_nanos(10_000_000)),
        ..Prices::default()
    };
    let rows = vec![
        row(ServiceTier::Standard, 0, prices(3.0, 0.3, 3.75, 6.0, 15.0)),
        row(ServiceTier::Standard, 200_000, prices(6.0, 0.6, 7.5, 12.0, 22.5)),
    ];
    Tariff::new(rows, PriceSource::Backend)
}

/// Input 1250, cached 125, audio 2000, output 10000, images out 30000; over 200,000 tokens 2500, 250, and output 15000.
fn gemini() -> Tariff {
    let prices = |input, cached, output| Prices {
        input: usd(input),
        cached_input: usd(cached),
        output: usd(output),
        audio_input: usd(2.0),
        image_output: usd(30.0),
        ..Prices::default()
    };
    let rows = vec![
        row(ServiceTier::Standard, 0, prices(1.25, 0.125, 10.0)),
        row(ServiceTier::Standard, 200_000, prices(2.5, 0.25, 15.0)),
    ];
    Tariff::new(rows, PriceSource::Backend)
}

fn flat(input: f64, cached: f64, output: f64) -> Tariff {
    let prices = Prices { input: usd(input), cached_input: usd(cached), output: usd(output), ..Prices::default() };
    Tariff::flat(prices, PriceSource::Backend)
}

/// Nothing but searches, 2 000 000 each.
fn rerank() -> Tariff {
    let prices = Prices { input: usd(0.0), tool_call: Some(NanoUsd::from_nanos(2_000_000)), ..Prices::default() };
    Tariff::flat(prices, PriceSource::Backend)
}

fn check(tariff: &Tariff, cases: &[(&str, &str, i64)]) {
    for (what, json, nanos) in cases {
        let cost = tariff.cost(&read(json.as_bytes()));
        assert_eq!(cost.total.as_nanos(), *nanos, "{what}: {cost:?}");
        assert!(cost.priced && !cost.estimated, "{what}");
    }
}

#[test]
fn chat_completions_cost_what_their_usage_says() {
    check(
        &gpt(),
        &[
            ("plain", r#"{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}"#, 47_500 + 100_000),
            (
                "all details zero",
                r#"{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}"#,
                47_500 + 100_000,
            ),
            (
                "cached tokens are in the prompt",
                r#"{"prompt_tokens":2006,"completion_tokens":300,"total_tokens":2306,"prompt_tokens_details":{"cached_tokens":1920}}"#,
                86 * 2_500 + 1_920 * 1_250 + 3_000_000,
            ),
            (
                "reasoning is in the completion",
                r#"{"prompt_tokens":75,"completion_tokens":1186,"total_tokens":1261,"completion_tokens_details":{"reasoning_tokens":1024}}"#,
                187_500 + 11_860_000,
            ),
            (
                "audio both ways",
                r#"{"prompt_tokens":120,"completion_tokens":150,"total_tokens":270,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":100},"completion_tokens_details":{"audio_tokens":110}}"#,
                20 * 2_500 + 100 * 40_000 + 40 * 10_000 + 110 * 80_000,
            ),
            (
                "rejected predictions are in the completion",
                r#"{"prompt_tokens":50,"completion_tokens":39,"completion_tokens_details":{"accepted_prediction_tokens":10,"rejected_prediction_tokens":5}}"#,
                125_000 + 390_000,
            ),
            (
                "flex",
                r#"{"prompt_tokens":100,"completion_tokens":10,"service_tier":"flex","prompt_tokens_details":{"cached_tokens":40}}"#,
                60 * 1_250 + 40 * 625 + 50_000,
            ),
            ("null details", r#"{"prompt_tokens":4,"completion_tokens":2,"prompt_tokens_details":null}"#, 30_000),
            ("whole numbers with a fraction part", r#"{"prompt_tokens":4.0,"completion_tokens":2.0}"#, 30_000),
            ("a missing completion is none", r#"{"prompt_tokens":4,"completion_tokens":null}"#, 10_000),
            ("negative figures are none", r#"{"prompt_tokens":-1,"completion_tokens":2}"#, 20_000),
            ("an empty object is nothing", "{}", 0),
            (
                "more cached than there was",
                r#"{"prompt_tokens":10,"completion_tokens":0,"prompt_tokens_details":{"cached_tokens":99}}"#,
                12_500,
            ),
        ],
    );
}

#[test]
fn responses_and_images_cost_what_their_usage_says() {
    check(
        &gpt(),
        &[
            (
                "Responses",
                r#"{"input_tokens":36,"input_tokens_details":{"cached_tokens":0},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":123}"#,
                90_000 + 870_000,
            ),
            (
                "Responses with a cached prefix and reasoning",
                r#"{"input_tokens":5000,"input_tokens_details":{"cached_tokens":4608},"output_tokens":900,"output_tokens_details":{"reasoning_tokens":832},"total_tokens":5900}"#,
                392 * 2_500 + 4_608 * 1_250 + 9_000_000,
            ),
            (
                "an image from text",
                r#"{"input_tokens":50,"input_tokens_details":{"text_tokens":50,"image_tokens":0},"output_tokens":1056,"output_tokens_details":{"image_tokens":1056,"text_tokens":0},"total_tokens":1106}"#,
                125_000 + 1_056 * 40_000,
            ),
            (
                "an image from an image",
                r#"{"input_tokens":373,"input_tokens_details":{"text_tokens":50,"image_tokens":323},"output_tokens":1000,"output_tokens_details":{"image_tokens":1000},"total_tokens":1373}"#,
                50 * 2_500 + 323 * 5_000 + 40_000_000,
            ),
            (
                "transcription",
                r#"{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":10,"audio_tokens":4},"output_tokens":101,"total_tokens":115}"#,
                10 * 2_500 + 4 * 40_000 + 1_010_000,
            ),
        ],
    );
}

#[test]
fn messages_cost_what_their_usage_says() {
    check(
        &claude(),
        &[
            ("plain", r#"{"input_tokens":2095,"output_tokens":503}"#, 6_285_000 + 7_545_000),
            (
                "both caches stand beside the input",
                r#"{"input_tokens":21,"cache_creation_input_tokens":188086,"cache_read_input_tokens":0,"output_tokens":393}"#,
                63_000 + 188_086 * 3_750 + 5_895_000,
            ),
            (
                "writes by how long they are kept",
                r#"{"input_tokens":2048,"cache_read_input_tokens":1800,"cache_creation_input_tokens":248,"output_tokens":503,"cache_creation":{"ephemeral_5m_input_tokens":148,"ephemeral_1h_input_tokens":100}}"#,
                6_144_000 + 540_000 + 555_000 + 600_000 + 7_545_000,
            ),
            (
                "only the parts of the writes",
                r#"{"input_tokens":10,"output_tokens":1,"cache_creation":{"ephemeral_5m_input_tokens":4,"ephemeral_1h_input_tokens":6}}"#,
                30_000 + 15_000 + 36_000 + 15_000,
            ),
            (
                "a cached prompt makes the request long too",
                r#"{"input_tokens":1,"cache_read_input_tokens":200000,"cache_creation_input_tokens":0,"output_tokens":2}"#,
                6_000 + 200_000 * 600 + 45_000,
            ),
            (
                "searches are paid by the call, fetches are not",
                r#"{"input_tokens":105,"output_tokens":6039,"cache_read_input_tokens":7123,"cache_creation_input_tokens":7345,"server_tool_use":{"web_search_requests":2,"web_fetch_requests":3}}"#,
                315_000 + 2_136_900 + 27_543_750 + 90_585_000 + 20_000_000,
            ),
            (
                "null caches",
                r#"{"input_tokens":10,"cache_creation_input_tokens":null,"cache_read_input_tokens":null,"output_tokens":20,"service_tier":"standard"}"#,
                330_000,
            ),
            (
                "a compaction beside the answer",
                r#"{"input_tokens":100,"output_tokens":10,"iterations":[{"type":"compaction","input_tokens":1000,"output_tokens":50},{"type":"message","input_tokens":100,"output_tokens":10}]}"#,
                3_300_000 + 900_000,
            ),
            (
                "through OpenAI's words",
                r#"{"prompt_tokens":1000,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":600,"cache_write_tokens":300}}"#,
                300_000 + 180_000 + 1_125_000 + 150_000,
            ),
        ],
    );
}

#[test]
fn generate_content_costs_what_its_usage_says() {
    check(
        &gemini(),
        &[
            ("plain", r#"{"promptTokenCount":4,"candidatesTokenCount":20,"totalTokenCount":24}"#, 5_000 + 200_000),
            (
                "thoughts stand beside the candidates",
                r#"{"promptTokenCount":9,"candidatesTokenCount":12,"thoughtsTokenCount":800,"totalTokenCount":821}"#,
                11_250 + 8_120_000,
            ),
            (
                "cached content is in the prompt",
                r#"{"promptTokenCount":5000,"cachedContentTokenCount":4000,"candidatesTokenCount":100,"cacheTokensDetails":[{"modality":"TEXT","tokenCount":4000}]}"#,
                1_250_000 + 500_000 + 1_000_000,
            ),
            (
                "what tools brought stands beside the prompt",
                r#"{"promptTokenCount":15,"toolUsePromptTokenCount":1000,"candidatesTokenCount":30,"totalTokenCount":1045}"#,
                1_015 * 1_250 + 300_000,
            ),
            (
                "audio",
                r#"{"promptTokenCount":330,"candidatesTokenCount":10,"promptTokensDetails":[{"modality":"TEXT","tokenCount":10},{"modality":"AUDIO","tokenCount":320}]}"#,
                12_500 + 640_000 + 100_000,
            ),
            (
                "a picture as the answer",
                r#"{"promptTokenCount":8,"candidatesTokenCount":1300,"candidatesTokensDetails":[{"modality":"IMAGE","tokenCount":1290},{"modality":"TEXT","tokenCount":10}]}"#,
                10_000 + 1_290 * 30_000 + 100_000,
            ),
            (
                "a long prompt",
                r#"{"promptTokenCount":200001,"candidatesTokenCount":10,"cachedContentTokenCount":1}"#,
                500_000_000 + 250 + 150_000,
            ),
            (
                "exactly at the border",
                r#"{"promptTokenCount":200000,"candidatesTokenCount":10}"#,
                250_000_000 + 100_000,
            ),
            ("only thoughts", r#"{"promptTokenCount":10,"thoughtsTokenCount":7}"#, 12_500 + 70_000),
            ("blocked", r#"{"promptTokenCount":10,"totalTokenCount":10}"#, 12_500),
        ],
    );
}

#[test]
fn other_vendors_cost_what_their_usage_says() {
    check(
        &flat(0.28, 0.028, 0.42),
        &[
            (
                "DeepSeek",
                r#"{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100,"prompt_cache_hit_tokens":640,"prompt_cache_miss_tokens":360,"completion_tokens_details":{"reasoning_tokens":60}}"#,
                360 * 280 + 640 * 28 + 100 * 420,
            ),
            (
                "DeepSeek says the same twice",
                r#"{"prompt_tokens":100,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":64},"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}"#,
                36 * 280 + 64 * 28 + 420,
            ),
        ],
    );
    check(
        &flat(3.0, 0.75, 15.0),
        &[
            (
                "xAI bills reasoning outside the completion",
                r#"{"prompt_tokens":41,"completion_tokens":104,"total_tokens":1087,"prompt_tokens_details":{"text_tokens":41,"audio_tokens":0,"image_tokens":0,"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":942,"audio_tokens":0},"num_sources_used":0}"#,
                40 * 3_000 + 750 + 1_046 * 15_000,
            ),
            (
                "xAI without reasoning",
                r#"{"prompt_tokens":41,"completion_tokens":104,"total_tokens":145,"completion_tokens_details":{"reasoning_tokens":0}}"#,
                123_000 + 1_560_000,
            ),
            (
                "Mistral",
                r#"{"prompt_tokens":100,"completion_tokens":29,"total_tokens":129,"num_cached_tokens":99}"#,
                3_000 + 99 * 750 + 435_000,
            ),
            (
                "Groq's timings are no tokens",
                r#"{"queue_time":0.037,"prompt_tokens":18,"prompt_time":0.0006,"completion_tokens":5,"completion_time":0.4,"total_tokens":23,"total_time":0.46}"#,
                54_000 + 75_000,
            ),
            (
                "Cohere is billed for less than it counts",
                r#"{"billed_units":{"input_tokens":5,"output_tokens":418},"tokens":{"input_tokens":71,"output_tokens":418}}"#,
                15_000 + 6_270_000,
            ),
            (
                "Cohere with fractions",
                r#"{"tokens":{"input_tokens":71.0,"output_tokens":4.0},"billed_units":{"input_tokens":5.0,"output_tokens":4.0}}"#,
                15_000 + 60_000,
            ),
            (
                "OpenRouter",
                r#"{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12,"cost":0.00005,"is_byok":false,"prompt_tokens_details":{"cached_tokens":0},"cost_details":{"upstream_inference_cost":null}}"#,
                60_000,
            ),
        ],
    );
    check(&flat(0.02, 0.02, 0.0), &[("embeddings", r#"{"prompt_tokens":8,"total_tokens":8}"#, 160)]);
    check(&flat(0.02, 0.02, 0.0), &[("one figure for all", r#"{"total_tokens":15}"#, 300)]);
    check(&rerank(), &[("a ranking", r#"{"billed_units":{"search_units":3}}"#, 6_000_000)]);
}

#[test]
fn the_vendors_own_figure_stands_beside_ours_with_the_drift() {
    let cost = |json: &str| flat(3.0, 0.75, 15.0).cost(&read(json.as_bytes()));
    let reported = cost(r#"{"prompt_tokens":10,"completion_tokens":2,"cost":0.00005}"#);
    assert_eq!(reported.reported, Some(NanoUsd::from_nanos(50_000)));
    assert_eq!(reported.drift(), Some(NanoUsd::from_nanos(-10_000)), "we bill more than the vendor");
    for odd in ["-0.1", "\"0.1\"", "null", "1e30", "{}"] {
        let json = format!(r#"{{"prompt_tokens":10,"completion_tokens":2,"cost":{odd}}}"#);
        assert_eq!((cost(&json).reported, cost(&json).total.as_nanos()), (None, 60_000), "{odd}");
    }
}
