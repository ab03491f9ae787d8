//! What a configuration comes to mean: defaults, rules and warnings, on small texts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berry_core::auth::key::TokenDigest;
use berry_core::config::snapshot::{
    Azure, AzureStyle, Backend, BillingMode, BudgetZone, Expose, HealthCheck, KeyHeader, LedgerStore, LogFormat, Model,
    Provider, Snapshot, Strategy, StreamUsage, Upstream,
};
use berry_core::config::{Config, Environment, LoadError, Loaded, Severity};
use berry_core::money::NanoUsd;

/// Variables and files of a test.
#[derive(Default)]
struct Fixed {
    variables: HashMap<&'static str, &'static str>,
    files: HashMap<PathBuf, &'static str>,
    without_effect: Vec<(&'static str, &'static str)>,
}

impl Environment for Fixed {
    fn var(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(|value| (*value).to_owned())
    }

    fn read_file(&self, path: &Path) -> std::io::Result<String> {
        self.files.get(path).map(|text| (*text).to_owned()).ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }

    fn without_effect(&self) -> &[(&'static str, &'static str)] {
        &self.without_effect
    }
}

fn load_with(text: &str, env: &Fixed) -> Loaded {
    Config::from_text("config.toml", text, env).unwrap_or_else(|error| panic!("{error}"))
}

fn load(text: &str) -> Loaded {
    load_with(text, &Fixed::default())
}

fn refused(text: &str) -> String {
    match Config::from_text("config.toml", text, &Fixed::default()) {
        Ok(_) => panic!("this is right:\n{text}"),
        Err(error) => error.to_string(),
    }
}

/// The warnings of a text, one line each.
fn warnings(loaded: &Loaded) -> Vec<String> {
    let of_severity = |wanted| move |(severity, line)| (severity == wanted).then_some(line);
    loaded.warnings.lines().filter_map(of_severity(Severity::Warning)).collect()
}

fn provider<'s>(snapshot: &'s Snapshot, id: &str) -> &'s Provider {
    &snapshot.providers[id]
}

fn model<'s>(snapshot: &'s Snapshot, name: &str) -> &'s Model {
    snapshot.models.find(name).unwrap_or_else(|| panic!("no model {name}"))
}

/// A token that is neither short nor from an example.
const USER: &str = "[users.ann]\ntoken = \"0f3a9c7be1d84f26a5b0\"\ntags = [\"admin\"]\n";
const DEMO: &str = "[providers.demo]\nbackend_type = \"demo\"\n";
const MODEL: &str = "[models.gpt_4]\nname = \"gpt-4\"\n[[models.gpt_4.backends]]\nprovider = \"demo\"\nmodel = \"m\"\n";

fn small() -> String {
    [USER, DEMO, MODEL].concat()
}

// ------------------------------------------------------------------------------------------------------------- the file

#[test]
fn a_small_configuration_says_nothing_and_has_every_default() {
    let loaded = load(&small());
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let snapshot = &loaded.snapshot;
    let settings = &snapshot.settings;
    assert_eq!((settings.max_retries, settings.max_internal_retries), (3, 2));
    assert_eq!((settings.circuit.failure_threshold, settings.circuit.timeout.as_secs()), (5, 60));
    assert_eq!(settings.probing.interval.as_secs(), 30);
    assert_eq!(settings.total_timeout.as_secs(), 900);
    assert!(settings.mask_api_keys && !settings.log_request_body && !settings.log_response_body);
    assert_eq!(settings.budget_zone, BudgetZone::Utc);
    assert_eq!(settings.smart_ai.adjustments.auth_error_penalty, 0.8);
    let server = &snapshot.server;
    assert_eq!(server.bind_address.to_string(), "127.0.0.1:3000");
    assert_eq!((server.max_connections, server.max_body_bytes), (20_000, 64 << 20));
    assert_eq!((server.max_response_bytes, server.max_buffered_bytes), (32 << 20, 1 << 30));
    assert_eq!((server.keep_alive.as_secs(), server.plain_keep_alive), (15, None));
    assert_eq!(server.cors_allowed_origins, ["*"]);
    assert_eq!(server.auth_failures_per_minute, 300);
    assert!(matches!(snapshot.ledger.store, LedgerStore::Sqlite(None)));
    assert!(snapshot.cluster.is_none() && !snapshot.cache.enabled);
    assert_eq!(snapshot.telemetry.log_format, LogFormat::Text);
    let provider = provider(snapshot, "demo");
    assert_eq!((provider.name.as_str(), provider.enabled, provider.max_retries), ("demo", true, None));
    assert_eq!((provider.health_check, provider.stream_usage), (HealthCheck::ModelsThenChat, StreamUsage::Auto));
    let model = model(snapshot, "gpt-4");
    assert_eq!(model.strategy, Strategy::SmartAi);
    let backend = &model.backends[0];
    assert_eq!((backend.weight, backend.priority, backend.billing), (1.0, 1, BillingMode::PerToken));
    assert_eq!(backend.id.to_string(), "gpt_4/demo:m");
}

#[test]
fn every_table_may_be_absent_and_the_warning_says_what_is_missing() {
    let loaded = load("[settings]\n");
    let warnings = warnings(&loaded).join("\n");
    for word in ["no user", "no provider", "no model"] {
        assert!(warnings.contains(word), "{warnings}");
    }
    assert_eq!(loaded.summary.to_string().lines().count(), 4);
}

#[test]
fn a_key_that_nothing_acts_on_is_a_warning_with_its_place() {
    let told = |keys: &str, without_effect: &[(&'static str, &'static str)]| {
        let env = Fixed { without_effect: without_effect.to_vec(), ..Fixed::default() };
        warnings(&load_with(&format!("{keys}{}", small()), &env)).join("\n")
    };
    for keys in ["[cache]\nttl_seconds = 9\n", "[cache]\nenabled = true\n", "cache = { enabled = true }\n"] {
        assert!(told(keys, &[]).starts_with("config.toml:1:"), "{keys}");
        assert!(told(keys, &[]).contains(": cache: has no effect: answers are not kept yet"), "{keys}");
    }
    assert_eq!(told("[cache]\nenabled = false\nttl_seconds = 9\n", &[]), "");
    let traces = [("telemetry.otlp_endpoint", "this build sends no traces")];
    let keys = "[telemetry]\notlp_endpoint = \"http://h:4318\"\n";
    assert_eq!(told(keys, &[]), "");
    let expected = "config.toml:2:17: telemetry.otlp_endpoint: has no effect: this build sends no traces";
    assert_eq!(told(keys, &traces), expected);
    assert_eq!(told("[telemetry]\nlog_format = \"json\"\n", &traces), "");
}

#[test]
fn the_summary_has_the_lines_that_scripts_look_for() {
    let summary = load(&small()).summary.to_string();
    let expected =
        "✅ Configuration is valid\n  - 1 providers configured\n  - 1 models configured\n  - 1 users configured";
    assert_eq!(summary, expected);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_fine() {
    let text = format!("\u{feff}{}", small()).replace('\n', "\r\n");
    assert!(load(&text).warnings.is_empty());
}

#[test]
fn a_file_without_a_key_is_refused_whatever_it_looks_like() {
    for text in ["", "\n\n", "# only words\n", "\u{feff}", "   # x"] {
        assert!(refused(text).contains("no key at all"), "{text:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let missing = Config::load(Path::new("/nowhere/config.toml"), &Fixed::default()).unwrap_err();
    assert_eq!(missing.to_string(), "/nowhere/config.toml: cannot be read: there is no such file");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, b"a = \"x\"\nb = \"\xff\"\n").unwrap();
    let error = Config::load(&path, &Fixed::default()).unwrap_err();
    assert!(matches!(error, LoadError::Read { .. }));
    assert!(error.to_string().ends_with("it is not UTF-8 text (line 2)"), "{error}");
    for order in [u16::to_le_bytes as fn(u16) -> [u8; 2], u16::to_be_bytes] {
        let utf_16: Vec<u8> = "\u{feff}a = 1\n".encode_utf16().flat_map(order).collect();
        for bytes in [&utf_16[..], &utf_16[2..]] {
            std::fs::write(&path, bytes).unwrap();
            let error = Config::load(&path, &Fixed::default()).unwrap_err();
            assert!(error.to_string().ends_with("save it as UTF-8"), "{error}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_file_of_a_reference_that_is_none_is_refused_and_not_waited_for() {
    use berry_core::config::ProcessEnvironment;
    let text = small().replace("0f3a9c7be1d84f26a5b0", "${file:/dev/zero}");
    let error = Config::from_text("config.toml", &text, &ProcessEnvironment).unwrap_err().to_string();
    assert!(error.contains("the file /dev/zero cannot be read: it is not a regular file"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_file_with_keys_that_others_can_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let mentions_mode = |text: &str, mode: u32| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let env = Fixed { variables: HashMap::from([("TOKEN", "0f3a9c7be1d84f26a5b0")]), ..Fixed::default() };
        let loaded = Config::load(&path, &env).unwrap();
        warnings(&loaded).iter().any(|line| line.contains("chmod 600"))
    };
    assert!(mentions_mode(&small(), 0o644));
    assert!(mentions_mode(&small(), 0o640));
    assert!(!mentions_mode(&small(), 0o600));
    assert!(!mentions_mode(&small().replace("0f3a9c7be1d84f26a5b0", "${TOKEN}"), 0o644), "no key is in the file");
    assert!(!mentions_mode(&small().replace("0f3a9c7be1d84f26a5b0", "your-token-here"), 0o644), "only an example");
}

// --------------------------------------------------------------------------------------------------- references, secrets

#[test]
fn references_are_filled_in_wherever_a_string_stands() {
    let env = Fixed {
        variables: HashMap::from([("TOKEN", "0f3a9c7be1d84f26a5b0"), ("HOST", "llm.internal")]),
        files: HashMap::from([(PathBuf::from("/run/secrets/key"), "sk-from-file\n")]),
        ..Fixed::default()
    };
    let text = "[users.ann]\ntoken = \"${TOKEN}\"\ntags = [\"admin\"]\n\
        [providers.p]\nbase_url = \"https://${HOST}/v1\"\napi_key = \"${file:/run/secrets/key}\"\n\
        headers = { \"x-team\" = \"${TEAM:-a}\" }\n";
    let loaded = load_with(text, &env);
    assert!(loaded.snapshot.users.has_token(&TokenDigest::of("0f3a9c7be1d84f26a5b0")));
    let provider = provider(&loaded.snapshot, "p");
    assert_eq!(provider.api_key.expose(), "sk-from-file");
    assert_eq!(provider.headers[0].1.as_bytes(), b"a");
    assert!(matches!(&provider.upstream, Upstream::OpenAi { base } if base.host() == Some("llm.internal")));
}

#[test]
fn what_is_switched_off_may_lack_its_variables_and_keys() {
    let off = "[users.bob]\nenabled = false\n\
        [users.eve]\ntoken = \"${EVE}\"\nenabled = false\n\
        [providers.openai]\nbase_url = \"https://api.openai.com/v1\"\napi_key = \"${OPENAI}\"\nenabled = false\n\
        [providers.empty]\nenabled = false\n\
        [models.old]\nenabled = false\n[[models.old.backends]]\nprovider = \"openai\"\n\
        [models.mixed]\n[[models.mixed.backends]]\nprovider = \"demo\"\nmodel = \"m\"\n\
        [[models.mixed.backends]]\nenabled = false\n";
    let loaded = load(&(small() + off));
    assert!(warnings(&loaded).is_empty(), "{}", loaded.warnings);
    assert!(loaded.snapshot.models.find("old").is_none());
    assert!(!provider(&loaded.snapshot, "empty").enabled);
}

#[test]
fn a_key_from_an_empty_variable_is_a_warning_unless_that_was_asked_for() {
    let env = Fixed { variables: HashMap::from([("EMPTY", "")]), ..Fixed::default() };
    let told = |key: &str, keys: &str| {
        let provider = format!("[providers.p]\nbase_url = \"http://h\"\napi_key = \"{key}\"\n{keys}");
        warnings(&load_with(&[&small(), provider.as_str()].concat(), &env)).join("\n")
    };
    assert!(told("${EMPTY}", "").contains("providers.p.api_key: is empty: the variable or file is there"));
    assert_eq!(told("${EMPTY:-}", ""), "");
    assert_eq!(told("", ""), "");
    assert_eq!(told("${EMPTY}", "enabled = false\n"), "");
}

#[test]
fn debug_output_of_everything_has_no_secret_in_it() {
    let text = "[users.ann]\ntoken = \"canary-token-0123456789\"\n\
        [providers.p]\nbase_url = \"https://llm.internal\"\napi_key = \"canary-key\"\nproxy = \"http://u:canary@proxy:3128\"\n\
        headers = { \"x-secret\" = \"canary-header\" }\n\
        [providers.az]\nbase_url = \"https://r.openai.azure.com\"\napi_key = \"canary-azure\"\n\
        [models.m]\nextra_headers = { \"x-other\" = \"canary-extra\" }\n\
        [[models.m.backends]]\nprovider = \"p\"\nmodel = \"m\"\nextra_headers = { \"x-third\" = \"canary-third\" }\n\
        [ledger]\nbackend = \"postgres\"\nurl = \"postgres://u:canary@db/berry\"\n\
        [cluster]\nredis_url = \"redis://:canary@redis:6379\"\n";
    let loaded = load(text);
    let dump = format!("{loaded:?} {loaded:#?} {}", loaded.warnings.render(true));
    assert!(!dump.contains("canary"), "{dump}");
    assert!(dump.contains("proxy:3128"), "the host of a proxy is no secret");
}

// ---------------------------------------------------------------------------------------------------------------- users

#[test]
fn the_tag_makes_an_administrator_and_the_name_only_where_nobody_has_the_tag() {
    let admins = |text: &str| {
        let loaded = load(text);
        let mut admins: Vec<String> =
            loaded.snapshot.users.iter().filter(|user| user.admin).map(|user| user.id.to_string()).collect();
        admins.sort();
        (admins, warnings(&loaded).join("\n"))
    };
    let user = |id: &str, more: &str| format!("[users.{id}]\ntoken = \"0f3a9c7be1d84f26-{id}\"\n{more}");
    let rest = [DEMO, MODEL].concat();

    let (found, said) = admins(&(user("admin", "") + &user("bob", "tags = [\"admin\"]\n") + &rest));
    assert_eq!((found, said.as_str()), (vec!["bob".to_owned()], ""));

    let (found, said) = admins(&(user("admin", "") + &user("bob", "") + &rest));
    assert_eq!(found, ["admin"]);
    assert!(said.contains("tags = [\"admin\"]"), "{said}");

    for closed in [
        user("admin", "allowed_models = [\"gpt-4\"]\n"),
        user("bob", ""),
        user("admin", "enabled = false\n") + &user("bob", ""),
        user("admin", "enabled = false\ntags = [\"other\"]\n") + &user("bob", ""),
    ] {
        let (found, said) = admins(&(closed + &rest));
        assert_eq!(found, [""; 0]);
        assert!(said.contains("no administrator"), "{said}");
    }
}

#[test]
fn a_short_or_example_token_is_a_warning_with_the_fix() {
    let said = |token: &str| warnings(&load(&small().replace("0f3a9c7be1d84f26a5b0", token))).join("\n");
    assert!(said("abc").contains("openssl rand -hex 32"));
    assert!(said("dev-team-token").contains("example"));
    assert!(said("your-admin-token-here").contains("example"));
    assert!(!said("abc").contains("\"abc\""));
    assert_eq!(said("令牌令牌令牌令牌令牌令牌令牌令牌"), "");
}

#[test]
fn a_digest_may_stand_for_the_token_in_either_case() {
    let digest = "9F86D081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let loaded = load(&small().replace("token = \"0f3a9c7be1d84f26a5b0\"", &format!("token_sha256 = \"{digest}\"")));
    assert!(loaded.snapshot.users.has_token(&TokenDigest::of("test")));
}

#[test]
fn an_allowed_model_that_matches_nothing_is_a_warning_with_a_suggestion() {
    let pattern =
        "[models.any]\nname = \"claude-*\"\n[[models.any.backends]]\nprovider = \"demo\"\nmodel = \"$name\"\n";
    let said = |entry: &str| {
        let text = small().replace("tags =", &format!("allowed_models = [\"{entry}\"]\ntags =")) + pattern;
        warnings(&load(&text)).join("\n")
    };
    for fine in ["gpt-4", "gpt_4", "gpt-*", "*", "claude-3-opus", "claude-*", "any"] {
        assert_eq!(said(fine), "", "{fine}");
    }
    assert!(said("gpt4").contains("did you mean \"gpt-4\"?"));
    assert!(said("mistral-*").contains("no model is called \"mistral-*\""));
}

#[test]
fn limits_and_budgets_are_kept_to_the_cent() {
    let text = small()
        + "[users.ann.rate_limit]\nrequests_per_minute = 60\nmax_concurrent = 20\n\
           [users.ann.model_rate_limits.\"gpt-4\"]\ntokens_per_day = 5\n\
           [users.ann.budget]\nusd_per_day = 0.1\n\
           [users.bob]\ntoken = \"another-long-token-1\"\n\
           [tags.admin.budget]\nusd_total = 1000\n";
    let loaded = load(&text);
    let ann = loaded.snapshot.users.of_id("ann").unwrap();
    let limits = ann.limits.as_deref().unwrap();
    assert_eq!((limits.rate.requests_per_minute, limits.rate.requests_per_hour), (Some(60), None));
    assert_eq!(limits.rate.max_concurrent, Some(20));
    assert_eq!(limits.by_model[0].1.tokens_per_day, Some(5));
    assert_eq!(limits.budget.per_day, Some(NanoUsd::from_nanos(100_000_000)));
    assert!(loaded.snapshot.users.of_id("bob").unwrap().limits.is_none());
    assert_eq!(loaded.snapshot.tags["admin"].budget.total, Some(NanoUsd::from_usd(1000.0).unwrap()));
}

// ------------------------------------------------------------------------------------------------------------ providers

fn upstream(keys: &str) -> (Upstream, Vec<String>, Loaded) {
    let loaded = load(&(small() + "[providers.p]\napi_key = \"k-123\"\n" + keys));
    let provider = provider(&loaded.snapshot, "p");
    let headers = provider.headers.iter().map(|(name, _)| name.to_string()).collect();
    (provider.upstream.clone(), headers, loaded)
}

#[test]
fn the_older_way_to_write_azure_is_recognised() {
    let keys = "base_url = \"https://r.openai.azure.com\"\nbackend_type = \"openai\"\n\
        [providers.p.headers]\n\"api-version\" = \"2024-02-01\"\n\"x-team\" = \"a\"\n";
    let (found, headers, loaded) = upstream(keys);
    let Upstream::Azure(Azure { base, style, api_version, auth }) = found else { panic!("{found:?}") };
    assert_eq!(base, "https://r.openai.azure.com/");
    assert_eq!((style, auth), (AzureStyle::Deployments, KeyHeader::ApiKey));
    assert_eq!(api_version.as_deref(), Some("2024-02-01"));
    assert_eq!(headers, ["x-team"], "the version is in the query and no header");
    let said: Vec<String> = loaded.warnings.lines().map(|(_, line)| line).collect();
    assert!(said.iter().any(|line| line.contains("recognised as backend_type = \"azure\"")), "{said:?}");
}

#[test]
fn azure_takes_its_version_from_the_key_then_the_header_then_the_address() {
    let version = |keys: &str| match upstream(keys).0 {
        Upstream::Azure(azure) => azure.api_version,
        other => panic!("{other:?}"),
    };
    let url =
        "base_url = \"https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-06-01\"\n";
    let header = "headers = { \"API-Version\" = \"2024-02-01\" }\n";
    assert_eq!(version(&format!("{url}api_version = \"2025-01-01-preview\"\n{header}")).unwrap(), "2025-01-01-preview");
    assert_eq!(version(&format!("{url}{header}")).unwrap(), "2024-02-01");
    assert_eq!(version(url).unwrap(), "2024-06-01");
    assert_eq!(version("base_url = \"https://r.openai.azure.com\"\n").unwrap(), "2024-10-21");
    assert_eq!(version("base_url = \"https://r.openai.azure.com/openai/v1\"\n"), None);
    assert_eq!(version("base_url = \"https://r.services.ai.azure.com/models\"\n").unwrap(), "2024-05-01-preview");
    assert_eq!(version("base_url = \"https://gw.internal\"\nbackend_type = \"azure\"\n").unwrap(), "2024-10-21");
}

#[test]
fn claude_is_spoken_where_the_address_or_the_type_says_so() {
    for (keys, base, auth) in [
        ("base_url = \"https://api.anthropic.com\"\n", "https://api.anthropic.com/v1", KeyHeader::XApiKey),
        (
            "base_url = \"https://r.services.ai.azure.com/anthropic\"\n",
            "https://r.services.ai.azure.com/anthropic/v1",
            KeyHeader::XApiKey,
        ),
        (
            "base_url = \"https://r.services.ai.azure.com\"\nbackend_type = \"claude\"\nauth = \"bearer\"\n",
            "https://r.services.ai.azure.com/anthropic/v1",
            KeyHeader::Bearer,
        ),
        (
            "base_url = \"https://claude.internal\"\nbackend_type = \"anthropic\"\n",
            "https://claude.internal/v1",
            KeyHeader::XApiKey,
        ),
    ] {
        match upstream(keys).0 {
            Upstream::Anthropic { base: found, auth: by } => {
                assert_eq!((found.to_string(), by), (base.to_owned(), auth))
            }
            other => panic!("{keys}: {other:?}"),
        }
    }
}

#[test]
fn claude_at_azure_gets_no_api_version_at_all() {
    let keys =
        "base_url = \"https://r.services.ai.azure.com/anthropic\"\nheaders = { \"api-version\" = \"2024-02-01\" }\n";
    assert_eq!(upstream(keys).1, [""; 0]);
}

#[test]
fn what_a_provider_cannot_use_is_a_warning() {
    let said = |keys: &str| warnings(&upstream(keys).2).join("\n");
    assert!(said("backend_type = \"demo\"\nbase_url = \"http://h\"\n").contains("base_url: has no effect"));
    assert!(said("base_url = \"http://h\"\ndemo = { seed = 2 }\n").contains("demo: has no effect"));
    assert!(said("base_url = \"http://h\"\napi_version = \"2024-02-01\"\n").contains("api_version: has no effect"));
}

#[test]
fn what_is_written_comes_before_what_is_recognised_except_at_azure() {
    let kind = |keys: &str| match upstream(keys).0 {
        Upstream::OpenAi { .. } => "openai",
        Upstream::Azure(_) => "azure",
        Upstream::Anthropic { .. } => "claude",
        Upstream::Gemini { .. } => "gemini",
        Upstream::Demo(_) => "demo",
    };
    assert_eq!(kind("base_url = \"https://api.anthropic.com/v1\"\nbackend_type = \"openai\"\n"), "openai");
    assert_eq!(kind("base_url = \"https://generativelanguage.googleapis.com\"\n"), "gemini");
    assert_eq!(kind("base_url = \"https://generativelanguage.googleapis.com/v1beta/openai/\"\n"), "openai");
    assert_eq!(kind("base_url = \"https://r.openai.azure.com\"\nbackend_type = \"openai\"\n"), "azure");
    let claude =
        "base_url = \"https://c.internal\"\nbackend_type = \"claude\"\nheaders = { \"api-version\" = \"1\" }\n";
    assert_eq!(kind(claude), "claude");
    assert_eq!(upstream(claude).1, ["api-version"], "for others it is a header like any other");
}

#[test]
fn timeouts_follow_the_nearest_key() {
    let text = "[settings]\nrequest_timeout_seconds = 7\nstream_idle_timeout_seconds = 40\n".to_owned()
        + &small()
        + "[providers.p]\nbase_url = \"http://localhost:1\"\ntimeout_seconds = 2.5\ncompletion_timeout_seconds = 60\n";
    let loaded = load(&text);
    let near = provider(&loaded.snapshot, "p").timeouts;
    assert_eq!(near.completion, Duration::from_secs(60));
    assert_eq!((near.stream_idle, near.stream_headers), (Duration::from_millis(2500), Duration::from_millis(2500)));
    let far = provider(&loaded.snapshot, "demo").timeouts;
    assert_eq!((far.completion.as_secs(), far.stream_idle.as_secs(), far.stream_headers.as_secs()), (7, 40, 7));
    assert_eq!((far.first_token, far.connect.as_secs()), (None, 5));
}

#[test]
fn a_known_vendor_without_a_key_is_a_warning_and_a_local_server_is_not() {
    let said = |url: &str| warnings(&load(&(small() + "[providers.p]\nbase_url = \"" + url + "\"\n"))).join("\n");
    assert!(said("https://api.openai.com/v1").contains("no key"));
    assert!(said("https://api.anthropic.com").contains("no key"));
    assert_eq!(said("http://localhost:11434"), "");
    assert_eq!(said("http://vllm.internal:8000/v1"), "");
}

#[test]
fn an_example_key_of_a_provider_that_is_on_is_a_warning() {
    let text = |on| {
        let url = "base_url = \"https://api.openai.com/v1\"";
        small() + &format!("[providers.p]\n{url}\napi_key = \"sk-your-openai-key-here\"\nenabled = {on}\n")
    };
    assert!(warnings(&load(&text(true))).join("\n").contains("key of an example"));
    assert!(warnings(&load(&text(false))).is_empty());
}

#[test]
fn models_of_a_provider_may_be_discovered_and_published() {
    let (_, _, loaded) = upstream("base_url = \"http://h\"\nmodels = \"auto\"\nexpose_models = [\"gpt-*\"]\n");
    let found = provider(&loaded.snapshot, "p");
    assert!(found.discover && found.models.is_empty());
    assert!(matches!(&found.expose, Expose::Matching(patterns) if patterns[0].as_str() == "gpt-*"));
    let (_, _, loaded) = upstream("base_url = \"http://h\"\nexpose_models = true\n");
    assert_eq!(provider(&loaded.snapshot, "p").expose, Expose::All);
}

#[test]
fn showing_parts_of_keys_is_a_warning() {
    let said = warnings(&load(&("[settings]\nmask_api_keys = false\n".to_owned() + &small())));
    assert!(said[0].starts_with("config.toml:2:17: settings.mask_api_keys:"), "{said:?}");
}

// --------------------------------------------------------------------------------------------------------------- models

#[test]
fn a_model_is_found_by_name_table_name_and_alias() {
    let loaded = load(&small().replace("name = \"gpt-4\"", "name = \"gpt-4\"\naliases = [\"best\", \"gpt_4\"]"));
    for name in ["gpt-4", "gpt_4", "best"] {
        assert_eq!(model(&loaded.snapshot, name).id.as_str(), "gpt_4", "{name}");
    }
    assert!(loaded.snapshot.models.find("GPT-4").is_none());
    assert_eq!(loaded.snapshot.models.all.len(), 1);
}

#[test]
fn exact_beats_pattern_and_the_longer_pattern_beats_the_shorter() {
    let pattern = |id: &str, name: &str| {
        format!("[models.{id}]\nname = \"{name}\"\n[[models.{id}.backends]]\nprovider = \"demo\"\nmodel = \"$name\"\n")
    };
    let loaded = load(&(small() + &pattern("all", "*") + &pattern("gpt", "gpt-*") + &pattern("mini", "*-mini")));
    let found = |name: &str| model(&loaded.snapshot, name).id.to_string();
    assert_eq!(found("gpt-4"), "gpt_4");
    assert_eq!(found("gpt-5"), "gpt");
    assert_eq!(found("gpt-5-mini"), "mini");
    assert_eq!(found("anything"), "all");
    assert_eq!(found("gpt"), "all", "the table name of a pattern is no model");
    let backend: &Backend = &model(&loaded.snapshot, "gpt-5").backends[0];
    assert_eq!(backend.upstream_model("gpt-5"), "gpt-5");
    assert_eq!(model(&loaded.snapshot, "gpt-4").backends[0].upstream_model("gpt-4"), "m");
}

#[test]
fn two_models_may_share_a_name_when_only_one_is_switched_on() {
    let other = "[models.other]\nname = \"gpt-4\"\nenabled = false\n";
    let loaded = load(&(small() + other));
    assert_eq!(model(&loaded.snapshot, "gpt-4").id.as_str(), "gpt_4");
    assert!(refused(&(small() + &other.replace("false", "true"))).contains("already a name of models.gpt_4"));
}

#[test]
fn a_backend_of_something_switched_off_is_off() {
    let enabled = |text: String| load(&text).snapshot.models.all[0].backends[0].enabled;
    assert!(enabled(small()));
    assert!(!enabled(small() + "enabled = false\n"));
    assert!(!enabled(small().replace("\"demo\"\n[models", "\"demo\"\nenabled = false\n[models")));
    assert!(!enabled(small().replace("name = \"gpt-4\"", "enabled = false")));
}

#[test]
fn a_model_without_a_usable_backend_is_a_warning() {
    let said = |text: String| warnings(&load(&text)).join("\n");
    assert!(said(small() + "[models.none]\n").contains("models.none: no usable backend"));
    assert!(said(small() + "enabled = false\n").contains("switched off"));
    assert_eq!(said(small() + "[models.none]\nenabled = false\n"), "");
}

#[test]
fn a_model_that_its_provider_does_not_list_is_a_warning_with_a_suggestion() {
    let said = |models: &str| {
        warnings(&load(&small().replace("\"demo\"\n[models", &format!("\"demo\"\n{models}\n[models")))).join("\n")
    };
    assert_eq!(said("models = [\"m\"]"), "");
    assert_eq!(said("models = []"), "");
    assert_eq!(said("models = \"auto\""), "");
    assert!(said("models = [\"m2\"]").contains("did you mean \"m2\"?"));
    assert!(said("models = [\"other-model\"]").contains("not among the models of demo"));
}

#[test]
fn the_same_backend_twice_is_told_apart() {
    let again = "[[models.gpt_4.backends]]\nprovider = \"demo\"\nmodel = \"m\"\n";
    let loaded = load(&(small() + again));
    let ids: Vec<String> =
        loaded.snapshot.models.all[0].backends.iter().map(|backend| backend.id.to_string()).collect();
    assert_eq!(ids, ["gpt_4/demo:m", "gpt_4/demo:m#2"]);
}

#[test]
fn request_parameters_become_json() {
    let edits = "defaults = { temperature = 0.2, stop = [\"a\\n\", \"\\\"\"], response_format = { type = \"json_object\" } }\n\
        override = { seed = 7, big = 1e300, logprobs = false }\ndrop = [\"user\"]\n";
    let loaded = load(&(small() + edits));
    let edits = &loaded.snapshot.models.all[0].backends[0].edits;
    let pairs =
        |list: &[(Box<str>, Box<str>)]| list.iter().map(|(name, json)| format!("{name}:{json}")).collect::<Vec<_>>();
    assert_eq!(
        pairs(&edits.defaults),
        ["temperature:0.2", r#"stop:["a\n","\""]"#, r#"response_format:{"type":"json_object"}"#]
    );
    assert_eq!(pairs(&edits.overrides), ["seed:7", "big:1e300", "logprobs:false"]);
    assert_eq!(&*edits.drop[0], "user");
}

#[test]
fn prices_and_limits_of_a_backend_are_kept() {
    let keys = "input_price = 2.5\nrequest_price = 0.002\ncontext_window = 128000\nmax_concurrent = 100\n\
        billing_mode = \"per_request\"\ntags = [\"premium\"]\nweight = 0.25\npriority = 7\n";
    let loaded = load(&(small() + keys + "[pricing.\"gpt-4o\"]\noutput_price = 10\n"));
    let backend = &loaded.snapshot.models.all[0].backends[0];
    assert_eq!(backend.tariff.base().input.unwrap().per_million(), NanoUsd::from_usd(2.5).unwrap());
    assert_eq!(backend.tariff.base().request, Some(NanoUsd::from_nanos(2_000_000)));
    assert_eq!((backend.limits.context_window, backend.limits.max_concurrent), (Some(128_000), Some(100)));
    assert_eq!((backend.billing, backend.weight, backend.priority), (BillingMode::PerRequest, 0.25, 7));
    assert!(loaded.snapshot.prices.configured("gpt-4o").unwrap().base().output.is_some());
}

// -------------------------------------------------------------------------------------------------------- provider data

#[test]
fn a_provider_may_say_only_the_name_of_its_vendor() {
    let text = "[providers.a]\nvendor = \"deepseek\"\napi_key = \"k\"\n[providers.b]\nvendor = \"deepseek\"\nbackend_type = \"claude\"\n\
                api_key = \"k\"\n[providers.c]\nvendor = \"gemini\"\napi_key = \"k\"\n[providers.d]\nvendor = \"perplexity\"\napi_key = \"k\"\n\
                [providers.e]\nvendor = \"ollama\"\nresponses = false\n[providers.f]\nbase_url = \"https://api.x.ai/v1\"\napi_key = \"k\"\n";
    let loaded = load(&[&small(), text].concat());
    assert!(warnings(&loaded).is_empty(), "{:?}", warnings(&loaded));
    let base = |id| match &provider(&loaded.snapshot, id).upstream {
        Upstream::OpenAi { base } => ("openai", base.to_string()),
        Upstream::Anthropic { base, .. } => ("claude", base.to_string()),
        Upstream::Gemini { base } => ("gemini", base.to_string()),
        other => panic!("{other:?}"),
    };
    assert_eq!(base("a"), ("openai", "https://api.deepseek.com/v1".to_owned()));
    assert_eq!(base("b"), ("claude", "https://api.deepseek.com/anthropic/v1".to_owned()));
    assert_eq!(base("c"), ("gemini", "https://generativelanguage.googleapis.com/v1beta".to_owned()));
    assert_eq!(base("d"), ("openai", "https://api.perplexity.ai/".to_owned()));
    let responses = ["a", "e", "f"].map(|id| provider(&loaded.snapshot, id).responses);
    assert_eq!(responses, [false, false, true]);
    let vendor = provider(&loaded.snapshot, "f").vendor.as_ref().map(|vendor| vendor.id.to_string());
    assert_eq!(vendor.as_deref(), Some("xai"));
}

#[test]
fn a_vendor_that_is_not_known_is_told_with_the_closest_one() {
    let error = refused(&[&small(), "[providers.a]\nvendor = \"deepseak\"\napi_key = \"k\"\n"].concat());
    assert!(
        error.contains("\"deepseak\" is not in the catalogue") && error.contains("did you mean \"deepseek\"?"),
        "{error}"
    );
    let error =
        refused(&[&small(), "[providers.a]\nvendor = \"groq\"\nbackend_type = \"claude\"\napi_key = \"k\"\n"].concat());
    assert!(error.contains("the catalogue has no such address of Groq"), "{error}");
}

#[test]
fn a_file_of_provider_data_is_read_with_the_configuration_and_its_mistakes_are_the_configurations() {
    let text = [&small(), "[settings]\nprovider_data = \"/data.toml\"\n[providers.a]\nvendor = \"corp\"\n"].concat();
    let mut env = Fixed::default();
    env.files.insert("/data.toml".into(), "[vendors.corp]\nbase_url = \"https://llm.corp.example/v1\"\nkey = false\n");
    let loaded = load_with(&text, &env);
    assert_eq!(provider(&loaded.snapshot, "a").upstream.host(), Some("llm.corp.example"));
    env.files.insert("/data.toml".into(), "[vendors.corp]\nbase_ur = \"https://llm.corp.example/v1\"\n");
    let error = Config::from_text("config.toml", &text, &env).unwrap_err().to_string();
    assert!(error.contains("/data.toml:2:1: vendors.corp.base_ur: unknown key"), "{error}");
    env.files.clear();
    let error = Config::from_text("config.toml", &text, &env).unwrap_err().to_string();
    assert!(error.contains("settings.provider_data: the file /data.toml cannot be read"), "{error}");
}

#[test]
fn the_receiver_of_budgets_needs_an_address_and_a_secret_and_hides_both() {
    let webhook = |url: &str, secret: &str| format!("[budget_webhook]\nurl = \"{url}\"\nsecret = \"{secret}\"\n");
    let loaded = load(&webhook("https://ops.test/T0/canary", "canary"));
    let found = loaded.snapshot.budget_webhook.clone().unwrap();
    assert_eq!((found.url.expose(), found.secret.expose()), ("https://ops.test/T0/canary", "canary"));
    assert!(!format!("{found:?}").contains("canary"));
    for (text, problem) in [
        ("[budget_webhook]\nsecret = \"s\"\n".to_owned(), "budget_webhook.url: missing"),
        ("[budget_webhook]\nurl = \"https://ops.test\"\n".to_owned(), "budget_webhook.secret: missing"),
        (webhook("ops.test", "s"), "must start with https:// or http://"),
        (webhook("https://ops.test", "whsec_?"), "what follows is not Base64"),
    ] {
        let error = refused(&text);
        assert!(error.contains(problem), "{problem}: {error}");
    }
}

#[test]
fn a_price_book_of_ones_own_goes_over_the_bundled_one_and_a_wrong_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prices.toml");
    let load = |book: &str| {
        std::fs::write(&path, book).unwrap();
        let text = format!("[settings]\nprice_book = {:?}\n{USER}{DEMO}{MODEL}", path.display().to_string());
        Config::from_text("test.toml", &text, &berry_core::config::ProcessEnvironment)
    };
    let book = "date = \"2027-02-03\"\n[[vendor]]\nname = \"openai\"\n[vendor.models]\ngpt-4o = { input = 9 }\n";
    assert_eq!(load(book).unwrap().snapshot.prices.book().date(), "2027-02-03");
    let told = load(&book.replace("input", "inputs")).unwrap_err().to_string();
    assert!(told.contains("settings.price_book") && told.contains("inputs"), "{told}");
}
