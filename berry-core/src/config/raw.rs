//! The file as written: one table for each table of the format, every key with its words, default and bounds.
//!
//! No behaviour lives here. `docs/configuration.md` is made from these declarations; compiling takes each struct apart in
//! full, so a key that nothing uses does not build.

mod values;

use std::path::PathBuf;

pub(crate) use values::{Digest, Exposed, ModelList, Parameters};

use super::decode::{
    At, Decode, Fields, HiddenText, Map, Millis, OneOf, Rare, Seconds, SecretText, Table, Text, bare_name, table,
};
use super::schema::{Bounds, KeySchema, TableSchema};
use super::snapshot::{
    BillingMode, ClusterFallback, HealthCheck, LedgerFallback, LogFormat, LossPolicy, StoreKind, Strategy, StreamUsage,
};

/// What a provider speaks, as it is written; the address may say more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendType {
    OpenAi,
    Azure,
    Claude,
    Gemini,
    Demo,
}

/// Which header carries an Azure or Anthropic key, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthKind {
    ApiKey,
    Bearer,
}

table! {
    /// The whole file. Every table is optional; a file without any key is refused.
    struct RawConfig {
        /// How requests are tried, timed and logged.
        settings: optional<RawSettings>;
        /// Who may use the gateway, by any name you like.
        users: optional<Map<RawUser>>;
        /// Accounts at upstreams, by any name you like.
        providers: optional<Map<RawProvider>>;
        /// What clients may ask for, by any name you like; the name works as an alias.
        models: optional<Map<RawModel>>;
        /// The listener and its limits.
        server: optional<RawServer>;
        /// Where requests are recorded.
        ledger: optional<RawLedger>;
        /// State shared by several instances.
        cluster: optional<RawCluster>;
        /// Logs and traces.
        telemetry: optional<RawTelemetry>;
        /// Answers kept for identical requests.
        cache: optional<RawCache>;
        /// Prices by the upstream's model name, for backends that state none.
        pricing: optional<Map<RawPrices>>;
        /// Budgets shared by all users with a tag.
        tags: optional<Map<RawTag>>;
        /// Who is told when a budget reaches 50, 80 and 100 %.
        budget_webhook: optional<RawBudgetWebhook>;
    }

    /// How requests are tried, timed and logged.
    struct RawSettings {
        /// Time between two probes of a healthy backend.
        health_check_interval_seconds: default<Seconds> = Seconds(30.0), Bounds::above(0.0);
        /// Longest time a probe may take.
        health_check_timeout_seconds: default<Seconds> = Seconds(10.0), Bounds::above(0.0);
        /// Time between two probes of an unhealthy backend.
        recovery_check_interval_seconds: default<Seconds> = Seconds(120.0), Bounds::above(0.0);
        /// Longest silence of an upstream that is waited out, before its headers and between two chunks of a stream. Without it
        /// the built-in times hold; see "Timeouts".
        request_timeout_seconds: optional<Seconds>, Bounds::above(0.0);
        /// Longest wait for the headers of a plain answer, during which the model thinks.
        completion_timeout_seconds: optional<Seconds>, Bounds::above(0.0);
        /// Longest wait for the first content of a stream; then another backend is tried.
        first_token_timeout_seconds: optional<Seconds>, Bounds::above(0.0);
        /// Longest silence between two chunks of a stream.
        stream_idle_timeout_seconds: optional<Seconds>, Bounds::above(0.0);
        /// Longest time for TCP and TLS to come up; 5 where nothing says otherwise.
        connect_timeout_seconds: optional<Seconds>, Bounds::above(0.0);
        /// Longest time for all attempts of a request together: the whole plain request, or a stream up to its first content.
        total_timeout_seconds: default<Seconds> = Seconds(900.0), Bounds::above(0.0);
        /// Attempts for a request beyond the first, over all backends.
        max_retries: default<u32> = 3, Bounds::between(0.0, 10.0);
        /// Of these, how many may go to the same backend.
        max_internal_retries: default<u32> = 2, Bounds::between(0.0, 10.0);
        /// Consecutive failures that open a backend's circuit.
        circuit_breaker_failure_threshold: default<u32> = 5, Bounds::at_least(1.0);
        /// How long an open circuit takes no traffic; grows with repeated openings, up to eight times.
        circuit_breaker_timeout_seconds: default<Seconds> = Seconds(60.0), Bounds::above(0.0);
        /// Log request bodies, at debug level.
        log_request_body: default<bool> = false;
        /// Log answer bodies, at debug level.
        log_response_body: default<bool> = false;
        /// Hide keys whole in `/admin/config`; `false` shows their first and last four characters there, and only there.
        mask_api_keys: default<bool> = true;
        /// Where days and months of budgets begin: `UTC`, an offset such as `+08:00`, or a name such as `Asia/Shanghai`.
        budget_timezone: optional<Text>;
        /// TOML file of the form of the bundled price book, `berry-core/data/prices.toml`, whose rows come before those of the bundled
        /// one; see [prices and costs](prices-and-costs.md).
        price_book: optional<PathBuf>;
        /// Refuse requests for backends of which nobody states a price, instead of counting them as costing nothing.
        refuse_unpriced: default<bool> = false;
        /// TOML file whose keys and rows come before the built-in data on vendors, models and errors; see [provider data](provider-data.md).
        provider_data: optional<PathBuf>;
        /// The `smart_ai` strategy.
        smart_ai: optional<RawSmartAi>;
    }

    /// The `smart_ai` strategy: confidence in each backend, learnt from traffic.
    struct RawSmartAi {
        /// Confidence that a backend starts with and drifts back to.
        initial_confidence: default<f64> = 0.8, Bounds::SHARE;
        /// Confidence never falls below this.
        min_confidence: default<f64> = 0.05, Bounds::SHARE;
        /// Whether confidence drifts back to the initial value while a backend is idle.
        enable_time_decay: default<bool> = true;
        /// A `per_token` backend of a `smart_ai` model without traffic for so long gets one probe that costs no tokens.
        lightweight_check_interval_seconds: default<Seconds> = Seconds(600.0), Bounds::above(0.0);
        /// Share of requests that try another backend than the best one.
        exploration_ratio: default<f64> = 0.2, Bounds::SHARE;
        /// Weight factor of a backend without the tag `premium` whose confidence is above 0.95.
        non_premium_stability_bonus: default<f64> = 1.1, Bounds::above(0.0);
        /// What a success adds to confidence and a failure takes away.
        confidence_adjustments: optional<RawAdjustments>;
    }

    /// What a success adds to confidence, and what each class of failure takes away.
    struct RawAdjustments {
        /// Added by a success.
        success_boost: default<f64> = 0.1, Bounds::SHARE;
        /// Taken away when the connection fails.
        network_error_penalty: default<f64> = 0.3, Bounds::SHARE;
        /// Taken away when the key is refused.
        auth_error_penalty: default<f64> = 0.8, Bounds::SHARE;
        /// Taken away by an answer 429.
        rate_limit_penalty: default<f64> = 0.1, Bounds::SHARE;
        /// Taken away by an answer 5xx.
        server_error_penalty: default<f64> = 0.2, Bounds::SHARE;
        /// Taken away when the upstream does not know the model.
        model_error_penalty: default<f64> = 0.3, Bounds::SHARE;
        /// Taken away when the upstream keeps silent for too long.
        timeout_penalty: default<f64> = 0.2, Bounds::SHARE;
    }

    /// One user: who holds a token and what they may do.
    struct RawUser {
        /// Name for people; the table's name without it.
        name: optional<Text>;
        /// The token that the user presents. One of `token` and `token_sha256` is needed.
        token: optional<SecretText>;
        /// SHA-256 of the token as 64 hexadecimal digits, so that the file can be shared: `printf %s TOKEN | sha256sum`.
        token_sha256: optional<Digest>;
        /// Models that the user may use: public names, aliases, table names, or patterns with `*`. Empty = all.
        allowed_models: default<Vec<At<Text>>> = Vec::new();
        /// A user that is switched off is refused.
        enabled: default<bool> = true;
        /// `admin` opens the admin endpoints and every backend. Other tags restrict the user to backends that share one or
        /// have none.
        tags: default<Vec<At<Text>>> = Vec::new();
        /// Limits over all models.
        rate_limit: optional<Rare<RawRateLimit>>;
        /// Limits for single models, by public name.
        model_rate_limits: optional<Map<RawRateLimit>>;
        /// Limits on money.
        budget: optional<Rare<RawBudget>>;
    }

    /// Limits on requests and tokens over sliding windows. What is absent is not limited.
    struct RawRateLimit {
        /// Requests in any minute.
        requests_per_minute: optional<u64>, Bounds::at_least(1.0);
        /// Requests in any hour.
        requests_per_hour: optional<u64>, Bounds::at_least(1.0);
        /// Requests in any day.
        requests_per_day: optional<u64>, Bounds::at_least(1.0);
        /// Input and output tokens in any minute.
        tokens_per_minute: optional<u64>, Bounds::at_least(1.0);
        /// Input and output tokens in any day.
        tokens_per_day: optional<u64>, Bounds::at_least(1.0);
        /// Requests at the same time.
        max_concurrent: optional<u32>, Bounds::at_least(1.0);
    }

    /// Limits on money, in USD. What is absent is not limited.
    struct RawBudget {
        /// For a calendar day in `budget_timezone`.
        usd_per_day: optional<f64>, Bounds::at_least(0.0);
        /// For a calendar month in `budget_timezone`.
        usd_per_month: optional<f64>, Bounds::at_least(0.0);
        /// For ever.
        usd_total: optional<f64>, Bounds::at_least(0.0);
    }

    /// One account at one upstream: an address, a key and a protocol.
    struct RawProvider {
        /// Name for people; the table's name without it.
        name: optional<Text>;
        /// A vendor of the [catalogue](provider-data.md), whose address and ways are then known: `"deepseek"`, `"groq"`. Recognised by its
        /// host when absent.
        vendor: optional<Text>;
        /// Address: with `/v1`, without it, or a full endpoint URL; see "Addresses". Needed, except for `demo` and with `vendor`.
        base_url: optional<Text>;
        /// Our key there. Empty or absent for servers without keys.
        api_key: optional<SecretText>;
        /// Models that it serves; a backend that names another one is warned about. Empty = any; `"auto"` asks the provider
        /// (see [discovery](discovery.md)).
        models: optional<ModelList>;
        /// Headers that are sent on every call, probes included.
        headers: optional<Map<HiddenText>>;
        /// Client headers that are passed on beside the usual ones.
        forward_headers: default<Vec<At<Text>>> = Vec::new();
        /// A provider that is switched off takes no traffic and no probes.
        enabled: default<bool> = true;
        /// What it speaks. Recognised by its address when absent, `"openai"` otherwise.
        backend_type: optional<OneOf<BackendType>>;
        /// Azure: `api-version` of the query. `2024-10-21`, or `2024-05-01-preview` for the `/models` style, when absent.
        api_version: optional<Text>;
        /// Azure and Claude: which header carries the key. Azure's `api-key`, Claude's `x-api-key`, or `authorization: Bearer`.
        auth: optional<OneOf<AuthKind>>;
        /// Longest silence that is waited out at this provider; see "Timeouts".
        timeout_seconds: optional<Seconds>, Bounds::above(0.0);
        /// Longest wait for the headers of a plain answer.
        completion_timeout_seconds: optional<Seconds>, Bounds::above(0.0);
        /// Longest wait for the first content of a stream.
        first_token_timeout_seconds: optional<Seconds>, Bounds::above(0.0);
        /// Longest silence between two chunks of a stream.
        stream_idle_timeout_seconds: optional<Seconds>, Bounds::above(0.0);
        /// Longest time for TCP and TLS to come up.
        connect_timeout_seconds: optional<Seconds>, Bounds::above(0.0);
        /// Attempts at this provider beyond the first within one request; 0 = one try. Without it only `[settings]` limits them.
        max_retries: optional<u32>, Bounds::between(0.0, 10.0);
        /// How it is probed: by its models list and, where that does not prove the model, a one-token chat; or one of the two;
        /// or by connecting only; or not at all.
        health_check: default<OneOf<HealthCheck>> = OneOf(HealthCheck::ModelsThenChat);
        /// Whether streams are asked for their usage when the client did not ask.
        stream_usage: default<OneOf<StreamUsage>> = OneOf(StreamUsage::Auto);
        /// Publish its models as `provider/model`: all of them, or those that match a pattern.
        expose_models: optional<Exposed>;
        /// Learn from refused parameters and send the request again without them.
        repair: default<bool> = false;
        /// Whether it has OpenAI's Responses API; requests for it are translated to chat completions otherwise. As known of the vendor, else
        /// `true`.
        responses: optional<bool>;
        /// PEM file with roots that are trusted beside the system's.
        ca_file: optional<PathBuf>;
        /// PEM file with the certificate that we show; together with `client_key`.
        client_cert: optional<PathBuf>;
        /// PEM file with its key.
        client_key: optional<PathBuf>;
        /// Proxy for this provider. Without it `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` decide.
        proxy: optional<Text>;
        /// Knobs of the built-in demo upstream, for `backend_type = "demo"`.
        demo: optional<RawDemo>;
    }

    /// Knobs of the built-in demo upstream.
    struct RawDemo {
        /// Makes its answers repeatable.
        seed: default<u64> = 1;
        /// Silence before the first token.
        first_token_latency_ms: default<Millis> = Millis(120), Bounds::between(0.0, 600_000.0);
        /// Time between two tokens.
        token_latency_ms: default<Millis> = Millis(15), Bounds::between(0.0, 60_000.0);
        /// Share of requests that fail.
        failure_rate: default<f64> = 0.0, Bounds::SHARE;
    }

    /// One public model and the backends behind it.
    struct RawModel {
        /// What clients ask for; the table's name without it. With `*` it is a pattern: it answers for every name that it
        /// matches and no other model has.
        name: optional<Text>;
        /// Further names.
        aliases: default<Vec<At<Text>>> = Vec::new();
        /// How a backend is chosen.
        strategy: default<OneOf<Strategy>> = OneOf(Strategy::SmartAi);
        /// A model that is switched off does not exist for clients.
        enabled: default<bool> = true;
        /// Its pool.
        backends: optional<Vec<At<RawBackend>>>;
        /// Put the public name back into answers; otherwise the upstream's name stays.
        rewrite_response_model: default<bool> = false;
        /// Output tokens that are assumed, and asked for, when a client states no limit; budgets reserve that much.
        default_max_output_tokens: optional<u64>, Bounds::at_least(1.0);
        /// Request parameters that are set when the client did not.
        defaults: default<Parameters> = Parameters::default();
        /// Request parameters that are set whatever the client said.
        r#override: default<Parameters> = Parameters::default();
        /// Request parameters that are taken out.
        drop: default<Vec<At<Text>>> = Vec::new();
        /// Headers for calls of this model, over those of the provider.
        extra_headers: optional<Map<HiddenText>>;
        /// How long a stream is held back after its first content, so that more failures can be rescued.
        commit: optional<RawCommit>;
        /// What happens when a translation cannot carry a part of the request: say so in a header, or refuse.
        loss_policy: default<OneOf<LossPolicy>> = OneOf(LossPolicy::Warn);
        /// Embedding models: whether all backends give vectors of the same space, so that one may stand in for another.
        interchangeable: default<bool> = false;
        /// Learn from refused parameters and send the request again without them.
        repair: default<bool> = false;
        /// How long a request may wait for a place when every backend is full; 0 = it is refused at once.
        queue_timeout_ms: default<Millis> = Millis(0);
        /// How many requests may wait so; further ones are refused at once.
        queue_max: default<usize> = 1000, Bounds::at_least(1.0);
    }

    /// How long a stream is held back after its first content.
    struct RawCommit {
        /// Content tokens that are held back.
        tokens: default<u32> = 0, Bounds::between(0.0, 10_000.0);
        /// Time that they are held back at most.
        ms: default<Millis> = Millis(0), Bounds::between(0.0, 60_000.0);
    }

    /// One backend: a provider's model inside this model's pool.
    struct RawBackend {
        /// The provider's table name.
        provider: required<Text>;
        /// The model's name there (Azure: the deployment). `"$name"` in a pattern model: the name that the client asked for.
        model: required<Text>;
        /// Share of traffic, relative to the others.
        weight: default<f64> = 1.0, Bounds::above(0.0);
        /// Lower is tried first, by the strategies that look at it.
        priority: default<u32> = 1;
        /// A backend that is switched off takes no traffic.
        enabled: default<bool> = true;
        /// What it charges for. `"per_request"` backends are never probed.
        billing_mode: default<OneOf<BillingMode>> = OneOf(BillingMode::PerToken);
        /// Fences it to users who share a tag; `premium` marks it as dear.
        tags: default<Vec<At<Text>>> = Vec::new();
        /// USD per million input tokens.
        input_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million input tokens that were read from the vendor's cache.
        cached_input_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million input tokens that were written to the vendor's cache.
        cache_write_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million input tokens that were written to the vendor's cache to be kept for an hour; as other writes without it.
        cache_write_1h_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million tokens of audio in the prompt; as other input without it.
        audio_input_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million tokens of images in the prompt; as other input without it.
        image_input_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million output tokens.
        output_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million reasoning tokens; as output without it.
        reasoning_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million tokens of generated audio; as other output without it.
        audio_output_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million tokens of generated images; as other output without it.
        image_output_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per request.
        request_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per call of a tool that the vendor runs, such as a web search.
        tool_call_price: optional<f64>, Bounds::at_least(0.0);
        /// Tokens that fit in, input and output together.
        context_window: optional<u64>, Bounds::at_least(1.0);
        /// Requests at the same time.
        max_concurrent: optional<u32>, Bounds::at_least(1.0);
        /// Requests in any minute.
        requests_per_minute: optional<u64>, Bounds::at_least(1.0);
        /// Tokens in any minute.
        tokens_per_minute: optional<u64>, Bounds::at_least(1.0);
        /// As on the model, for this backend.
        default_max_output_tokens: optional<u64>, Bounds::at_least(1.0);
        /// As on the model, over the model's.
        defaults: default<Parameters> = Parameters::default();
        /// As on the model, over the model's.
        r#override: default<Parameters> = Parameters::default();
        /// As on the model, beside the model's.
        drop: default<Vec<At<Text>>> = Vec::new();
        /// As on the model, over the model's.
        extra_headers: optional<Map<HiddenText>>;
    }

    /// The listener and its limits.
    struct RawServer {
        /// Where to listen. `--bind` and `BIND_ADDRESS` come before it.
        bind_address: default<Text> = Text::literal("127.0.0.1:3000");
        /// Connections at the same time; more wait. `MAX_CONNECTIONS` comes before it.
        max_connections: default<usize> = 20_000, Bounds::at_least(1.0);
        /// Largest request body, bytes.
        max_body_bytes: default<usize> = 64 << 20, Bounds::at_least(1024.0);
        /// All requests and answers that are held at once, bytes; beyond it requests get 503.
        max_buffered_bytes: default<usize> = 1 << 30, Bounds::at_least(1024.0);
        /// Largest plain answer of an upstream, bytes.
        max_response_bytes: default<usize> = 32 << 20, Bounds::at_least(1024.0);
        /// PEM file with our certificate chain; together with `tls_key`. Without it clients speak plain HTTP.
        tls_cert: optional<PathBuf>;
        /// PEM file with its key.
        tls_key: optional<PathBuf>;
        /// PEM file with roots: clients must show a certificate signed by one of them.
        client_ca: optional<PathBuf>;
        /// How long a shutdown waits for requests in flight.
        shutdown_grace_seconds: default<Seconds> = Seconds(30.0), Bounds::at_least(0.0);
        /// How long `/readyz` fails at a shutdown before the listener closes, so that load balancers notice.
        drain_delay_seconds: default<Seconds> = Seconds(0.0), Bounds::at_least(0.0);
        /// Origins that browsers may call `/v1` from; `"*"` for any. None for `/admin`, whatever this says.
        cors_allowed_origins: default<Vec<At<Text>>>
            = vec![At { value: Text::literal("*"), span: None }];
        /// Whether `/metrics`, `/prometheus` and `/smart-ai/*` need an admin token.
        protect_monitoring: default<bool> = false;
        /// Silence after which a stream carries a keep-alive comment.
        keep_alive_seconds: default<Seconds> = Seconds(15.0), Bounds::above(0.0);
        /// Silence after which a plain answer is kept alive with white space, at the price of its status: it is 200 then, and a
        /// later failure can only be told in the body. Off without it.
        plain_keep_alive_seconds: optional<Seconds>, Bounds::above(0.0);
        /// Addresses and networks (CIDR) of proxies whose `X-Forwarded-For` is believed.
        trusted_proxies: default<Vec<At<Text>>> = Vec::new();
        /// Whether connections from trusted proxies start with a PROXY protocol header.
        proxy_protocol: default<bool> = false;
        /// Longest time for the head of a request to arrive.
        header_timeout_seconds: default<Seconds> = Seconds(10.0), Bounds::above(0.0);
        /// Longest time for the body of a request to arrive, beyond one second for each KiB.
        body_timeout_seconds: default<Seconds> = Seconds(30.0), Bounds::above(0.0);
        /// How long an idle client connection is kept.
        idle_timeout_seconds: default<Seconds> = Seconds(60.0), Bounds::above(0.0);
        /// How long a client may take nothing of what is sent to it; then its connection is closed and the upstream is let go.
        write_stall_seconds: default<Seconds> = Seconds(60.0), Bounds::above(0.0);
        /// Whether replies carry `x-berry-provider`, `x-berry-model` and `x-berry-attempts`.
        berry_headers: default<bool> = true;
        /// Failed authentications a minute from one address beyond which it is answered 429. A valid token is never refused.
        auth_failures_per_minute: default<u32> = 300, Bounds::at_least(1.0);
        /// Where state is kept. `BERRY_DATA_DIR`, `STATE_DIRECTORY`, then `./data` without it.
        data_dir: optional<PathBuf>;
    }

    /// Where requests are recorded.
    struct RawLedger {
        /// The store.
        backend: default<OneOf<StoreKind>> = OneOf(StoreKind::Sqlite);
        /// Address of the PostgreSQL database.
        url: optional<SecretText>;
        /// The SQLite file; `ledger.db` in the data directory without it.
        path: optional<PathBuf>;
        /// Days that rows are kept; for ever without it.
        retention_days: optional<u32>, Bounds::at_least(1.0);
        /// Whether the journal is forced to disk before an answer ends: survives a power cut, costs some milliseconds.
        fsync: default<bool> = false;
        /// Largest size of the journal, in which rows wait while the database takes none, beside 64 KiB for each processor core. Rows
        /// beyond it are dropped and counted.
        journal_max_bytes: default<u64> = 256 << 20, Bounds::at_least(1_048_576.0);
        /// Whether end users are recorded as hashes.
        hash_end_users: default<bool> = false;
        /// When the store is down: serve all the same, or refuse.
        on_failure: default<OneOf<LedgerFallback>> = OneOf(LedgerFallback::Open);
    }

    /// State shared by several instances.
    struct RawCluster {
        /// Address of the Redis or Valkey server.
        redis_url: required<SecretText>;
        /// When it is away: this instance's last lease and then its share of the limits, no limits, or refuse.
        on_failure: default<OneOf<ClusterFallback>> = OneOf(ClusterFallback::Local);
        /// The same for budgets only; as `on_failure` without it.
        budgets_on_failure: optional<OneOf<ClusterFallback>>;
        /// What names in the store begin with. Instances share what they have in common under one prefix.
        key_prefix: optional<Text>;
        /// How many instances there are, until the store has told: what limits are divided by when it was never reached.
        instances: default<u32> = 1, Bounds::at_least(1.0);
    }

    /// Logs and traces.
    struct RawTelemetry {
        /// What standard output carries.
        log_format: default<OneOf<LogFormat>> = OneOf(LogFormat::Text);
        /// A file that gets the log too.
        log_file: optional<PathBuf>;
        /// What the file carries.
        log_file_format: default<OneOf<LogFormat>> = OneOf(LogFormat::Json);
        /// Size at which the file is put aside as `FILE.1` and a new one begun, bytes; 0 = never.
        log_file_max_bytes: default<u64> = 100 << 20;
        /// How many files that were put aside are kept.
        log_file_keep: default<u32> = 10, Bounds::between(0.0, 1000.0);
        /// OpenTelemetry collector that gets traces (OTLP over HTTP, Protocol Buffers): its address, with or without `/v1/traces`.
        /// That of the start holds until the process ends.
        otlp_endpoint: optional<Text>;
        /// Share of requests that are traced, when the client has not decided.
        trace_sample_ratio: default<f64> = 1.0, Bounds::SHARE;
    }

    /// Answers kept for identical requests.
    struct RawCache {
        /// Whether answers are kept at all.
        enabled: default<bool> = false;
        /// How long.
        ttl_seconds: default<Seconds> = Seconds(300.0), Bounds::above(0.0);
        /// All answers together, bytes.
        max_bytes: default<u64> = 64 << 20, Bounds::at_least(1024.0);
        /// Largest answer that is kept, bytes.
        max_entry_bytes: default<u64> = 1 << 20, Bounds::at_least(1.0);
    }

    /// Prices of an upstream model, for backends that state none.
    struct RawPrices {
        /// USD per million input tokens.
        input_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million input tokens that were read from the vendor's cache.
        cached_input_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million input tokens that were written to the vendor's cache.
        cache_write_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million input tokens that were written to the vendor's cache to be kept for an hour; as other writes without it.
        cache_write_1h_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million tokens of audio in the prompt; as other input without it.
        audio_input_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million tokens of images in the prompt; as other input without it.
        image_input_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million output tokens.
        output_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million reasoning tokens; as output without it.
        reasoning_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million tokens of generated audio; as other output without it.
        audio_output_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per million tokens of generated images; as other output without it.
        image_output_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per request.
        request_price: optional<f64>, Bounds::at_least(0.0);
        /// USD per call of a tool that the vendor runs, such as a web search.
        tool_call_price: optional<f64>, Bounds::at_least(0.0);
    }

    /// Who is told when a budget reaches 50, 80 and 100 %.
    struct RawBudgetWebhook {
        /// Where messages are sent to by POST, `http://` or `https://`. Kept secret, since such addresses often are.
        url: required<SecretText>;
        /// What messages are signed with (HMAC-SHA256, Standard Webhooks): the key itself, or `whsec_` and its Base64.
        secret: required<SecretText>;
    }

    /// What all users with a tag share.
    struct RawTag {
        /// Limits on money for all of them together.
        budget: optional<RawBudget>;
    }
}
