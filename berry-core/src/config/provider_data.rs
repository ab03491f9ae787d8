//! Provider data: what is known of vendors, of what models can do, and of what errors mean.
//!
//! The files of `data/` are built in; `settings.provider_data` names a file of the same form whose keys and rows come before them.
//! It is read by the declarations that read a configuration, so what is wrong with it is told in the same way, with its place.

mod raw;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use self::raw::{RawCapabilities, RawData, RawError, RawVendor};
use super::compile::address::{Address, BadAddress};
use super::decode::{At, Decoder, Text, read_table};
use super::interpolate::{Environment, ProcessEnvironment};
use super::mask::Masked;
use super::path::KeyPath;
use super::problem::{Problems, Report, Severity, closest};
use super::raw::BackendType;
use super::source::{self, Origin};
use crate::operation::Dialect;
use crate::policy::ModelPattern;

/// What is built in, each file with its name.
const BUNDLED_FILES: [(&str, &str); 3] = [
    ("vendors.toml", include_str!("../../data/vendors.toml")),
    ("capabilities.toml", include_str!("../../data/capabilities.toml")),
    ("errors.toml", include_str!("../../data/errors.toml")),
];

static BUNDLED: LazyLock<Arc<ProviderData>> = LazyLock::new(|| {
    let data = ProviderData::of_texts(&BUNDLED_FILES, &ProcessEnvironment);
    Arc::new(data.expect("a test reads the bundled files"))
});

/// What is known of vendors, models and errors.
#[derive(Debug)]
pub struct ProviderData {
    vendors: BTreeMap<Box<str>, Arc<Vendor>>,
    capabilities: Vec<CapabilityRow>,
    errors: Arc<[ErrorRow]>,
}

/// A vendor of an API.
#[derive(Clone, Debug)]
pub struct Vendor {
    /// The name that a provider's `vendor` takes.
    pub id: Box<str>,
    /// Name for people.
    pub name: Box<str>,
    /// Where its API is; none where each customer has an address of their own.
    pub base_url: Option<Box<str>>,
    /// Where its API for clients of Claude is.
    pub claude_base_url: Option<Box<str>>,
    /// What it speaks.
    pub(crate) speaks: BackendType,
    /// Whether it wants a key.
    pub wants_key: bool,
    /// Whether it has OpenAI's Responses API; `None` = not known.
    pub responses: Option<bool>,
    /// How it reranks; `None` = not known.
    pub rerank: Option<Rerank>,
    /// What it takes of `anthropic-beta`.
    pub betas: Betas,
    hosts: Vec<ModelPattern>,
    errors: Arc<[ErrorRow]>,
}

/// Where and how a vendor reranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rerank {
    /// Whose form requests and answers have.
    pub form: RerankForm,
    /// Path from the root of the host; below the base address without it.
    pub path: Option<Box<str>>,
}

/// The forms of reranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RerankForm {
    /// Cohere's second version: texts only, `top_n`, no documents in answers.
    Cohere,
    /// Jina's: `top_n` and `return_documents`, as vLLM and others have it too.
    Jina,
    /// Voyage's: `top_k`, and results called `data`.
    Voyage,
}

/// What a host of the Messages API takes of the header `anthropic-beta`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Betas {
    known: BTreeMap<Box<str>, Box<str>>,
    unknown: UnknownBetas,
}

/// What happens to a beta that the data does not list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownBetas {
    /// It is sent.
    #[default]
    Pass,
    /// It is left out.
    Drop,
}

impl Betas {
    /// Whether every value passes as it is.
    pub fn pass_all(&self) -> bool {
        self.known.is_empty() && self.unknown == UnknownBetas::Pass
    }

    /// What a value is called there; `None` for one that is left out.
    pub fn name_of<'a>(&'a self, beta: &'a str) -> Option<&'a str> {
        match (self.known.get(beta), self.unknown) {
            (Some(name), _) => Some(&**name).filter(|name| !name.is_empty()),
            (None, UnknownBetas::Pass) => Some(beta),
            (None, UnknownBetas::Drop) => None,
        }
    }
}

/// What the model of a backend can do, as far as a translation has to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// Most output tokens of one answer.
    pub max_output_tokens: Option<u64>,
    /// How it is asked to think.
    pub thinking: ThinkingAsk,
    /// Efforts that it knows, where its dialect names them; empty = not known.
    pub efforts: Vec<Box<str>>,
    /// The least budget for thinking that it takes.
    pub min_thinking_tokens: u64,
    /// Which sampling parameters it takes.
    pub sampling: Sampling,
    /// Whether it follows a schema by itself.
    pub structured_output: bool,
    /// Whether it takes JSON schemas as they are, where its dialect has a form of its own beside them.
    pub json_schema: bool,
    /// Whether a trailing turn of the assistant is gone on with.
    pub prefill: bool,
    /// Whether it wants its thoughts back inside a tool loop, as `reasoning_content`.
    pub echoes_thinking: bool,
}

/// A model of which nothing is known.
impl Default for Capabilities {
    fn default() -> Self {
        Self {
            max_output_tokens: None,
            thinking: ThinkingAsk::None,
            efforts: Vec::new(),
            min_thinking_tokens: 0,
            sampling: Sampling::All,
            structured_output: true,
            json_schema: true,
            prefill: true,
            echoes_thinking: false,
        }
    }
}

/// How a model is asked to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinkingAsk {
    /// It does not think, or knows nothing of it.
    None,
    /// By a budget of tokens.
    Budget,
    /// By a budget of tokens, and it may be left to itself.
    BudgetOrAdaptive,
    /// It is left to itself, with an effort.
    Adaptive,
    /// By an effort alone.
    Effort,
    /// By one of Gemini's levels.
    Level,
}

/// Which sampling parameters a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// All that its dialect has.
    All,
    /// `temperature` or `top_p`, not both.
    One,
    /// None.
    None,
}

#[derive(Debug)]
struct CapabilityRow {
    dialect: Dialect,
    models: Vec<ModelPattern>,
    max_output_tokens: Option<u64>,
    thinking: Option<ThinkingAsk>,
    efforts: Option<Vec<Box<str>>>,
    min_thinking_tokens: Option<u64>,
    sampling: Option<Sampling>,
    structured_output: Option<bool>,
    json_schema: Option<bool>,
    prefill: Option<bool>,
    echoes_thinking: Option<bool>,
}

/// What an error means where its status alone does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The prompt does not fit into the model's context.
    ContextOverflow,
    /// A filter stopped it.
    ContentFilter,
    /// Nothing left to pay with.
    Billing,
    /// Too many requests.
    RateLimit,
    /// Too busy.
    Overloaded,
    /// The key is refused.
    Key,
    /// The model is not known there.
    Model,
}

#[derive(Debug)]
struct ErrorRow {
    status: Vec<u32>,
    codes: Vec<Box<str>>,
    says: Vec<ModelPattern>,
    means: Meaning,
}

/// What errors of one provider mean: its vendor's rows, then those for everyone.
#[derive(Clone, Debug)]
pub struct ErrorTable {
    own: Arc<[ErrorRow]>,
    common: Arc<[ErrorRow]>,
}

/// The rows for everyone that are built in.
impl Default for ErrorTable {
    fn default() -> Self {
        ProviderData::bundled().errors(None)
    }
}

impl ErrorTable {
    /// What an error means. Codes are separated by spaces; codes and message are in lower case.
    pub fn meaning(&self, status: u16, codes: &str, message: &str) -> Option<Meaning> {
        let mut rows = self.own.iter().chain(&*self.common);
        rows.find(|row| row.matches(u32::from(status), codes, message)).map(|row| row.means)
    }
}

impl ErrorRow {
    fn matches(&self, status: u32, codes: &str, message: &str) -> bool {
        let coded = || codes.split(' ').any(|code| self.codes.iter().any(|known| **known == *code));
        let said = || self.says.iter().any(|phrase| phrase.matches(codes) || phrase.matches(message));
        (self.status.is_empty() || self.status.contains(&status))
            && (self.codes.is_empty() && self.says.is_empty() || coded() || said())
    }
}

impl ProviderData {
    /// What is built in.
    pub fn bundled() -> Arc<Self> {
        Arc::clone(&BUNDLED)
    }

    /// What is built in, with an operator's file of this name and text over it.
    ///
    /// # Errors
    /// Everything that is wrong with the file.
    pub fn with_file(name: &str, text: &str, env: &dyn Environment) -> Result<Self, Report> {
        let [vendors, capabilities, errors] = BUNDLED_FILES;
        Self::of_texts(&[vendors, capabilities, errors, (name, text)], env)
    }

    /// Reads files, each over those before it.
    fn of_texts(files: &[(&str, &str)], env: &dyn Environment) -> Result<Self, Report> {
        let mut vendors: BTreeMap<String, RawVendor> = BTreeMap::new();
        let mut data = Self { vendors: BTreeMap::new(), capabilities: Vec::new(), errors: Arc::default() };
        let mut errors: Vec<ErrorRow> = Vec::new();
        for (name, text) in files {
            let (raw, mut problems, masked) = read(text, env);
            let root = KeyPath::ROOT;
            for entry in raw.vendors.map(|map| map.value.0).unwrap_or_default() {
                let at = root.key("vendors");
                let vendor = match vendors.remove(&entry.key) {
                    Some(base) => entry.value.over(base),
                    None => entry.value,
                };
                let compiled = compile_vendor(&entry.key, &vendor, &at.key(&entry.key), &mut problems);
                data.vendors.insert(entry.key.as_str().into(), Arc::new(compiled));
                vendors.insert(entry.key, vendor);
            }
            let rows = raw.capabilities.map(|rows| rows.value).unwrap_or_default();
            let rows = rows.into_iter().enumerate();
            let rows =
                rows.filter_map(|(n, row)| capability_row(row, &root.key("capabilities").index(n), &mut problems));
            data.capabilities = rows.collect::<Vec<_>>().into_iter().chain(data.capabilities).collect();
            let rows = raw.errors.map(|rows| rows.value).unwrap_or_default();
            let rows = error_rows(&rows, &root.key("errors"), &mut problems);
            errors = rows.into_iter().chain(errors).collect();
            let report = problems.finish(name, &masked);
            if report.count(Severity::Error) > 0 {
                return Err(report);
            }
        }
        Ok(Self { errors: errors.into(), ..data })
    }

    /// The vendor of this name.
    pub fn vendor(&self, id: &str) -> Option<&Arc<Vendor>> {
        self.vendors.get(id)
    }

    /// Every vendor, by name.
    pub fn vendors(&self) -> impl Iterator<Item = &Arc<Vendor>> {
        self.vendors.values()
    }

    /// The vendor that a host belongs to.
    pub fn vendor_of_host(&self, host: &str) -> Option<&Arc<Vendor>> {
        let host = host.to_ascii_lowercase();
        self.vendors.values().find(|vendor| vendor.hosts.iter().any(|known| known.matches(&host)))
    }

    /// The name of a vendor that is close to one that is not known.
    pub(crate) fn closest_vendor(&self, id: &str) -> Option<&str> {
        closest(id, self.vendors.keys().map(|known| &**known))
    }

    /// What errors of a provider mean.
    pub fn errors(&self, vendor: Option<&Vendor>) -> ErrorTable {
        let own = vendor.map_or_else(Arc::default, |vendor| Arc::clone(&vendor.errors));
        ErrorTable { own, common: Arc::clone(&self.errors) }
    }

    /// What the model of this name can do at an upstream that speaks `dialect`.
    pub fn capabilities(&self, dialect: Dialect, model: &str) -> Capabilities {
        let name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
        let names_it =
            |row: &&CapabilityRow| row.dialect == dialect && row.models.iter().any(|pattern| pattern.matches(&name));
        let rows: Vec<&CapabilityRow> = self.capabilities.iter().filter(names_it).collect();
        let unknown = Capabilities::default();
        Capabilities {
            max_output_tokens: rows.iter().find_map(|row| row.max_output_tokens),
            thinking: rows.iter().find_map(|row| row.thinking).unwrap_or(unknown.thinking),
            efforts: rows.iter().find_map(|row| row.efforts.clone()).unwrap_or_default(),
            min_thinking_tokens: rows.iter().find_map(|row| row.min_thinking_tokens).unwrap_or_default(),
            sampling: rows.iter().find_map(|row| row.sampling).unwrap_or(unknown.sampling),
            structured_output: rows.iter().find_map(|row| row.structured_output).unwrap_or(unknown.structured_output),
            json_schema: rows.iter().find_map(|row| row.json_schema).unwrap_or(unknown.json_schema),
            prefill: rows.iter().find_map(|row| row.prefill).unwrap_or(unknown.prefill),
            echoes_thinking: rows.iter().find_map(|row| row.echoes_thinking).unwrap_or(unknown.echoes_thinking),
        }
    }
}

/// One file, what is wrong with it, and its text with secrets hidden.
fn read<'t>(text: &'t str, env: &dyn Environment) -> (RawData, Problems, Masked<'t>) {
    let text = source::without_bom(text);
    let mut problems = Problems::default();
    let origin = Origin::default();
    let (tree, broken) = source::parse(text, &origin, &mut problems);
    let mut found = Problems::default();
    let mut cx = Decoder::new(&mut found, env, &origin);
    let raw = read_table(tree.get_ref(), &KeyPath::ROOT, &mut cx);
    let masked = Masked::new(text, cx.secrets, !broken.is_empty());
    found.drop_within(&broken);
    problems.append(found);
    (raw, problems, masked)
}

fn compile_vendor(id: &str, raw: &RawVendor, at: &KeyPath<'_>, problems: &mut Problems) -> Vendor {
    let text = |text: &Option<At<Text>>| text.as_ref().map(|text| text.value.value.as_str().into());
    let mut hosts: Vec<ModelPattern> = match &raw.hosts {
        Some(hosts) => hosts.value.iter().map(|host| ModelPattern::new(&host.value.value.to_lowercase())).collect(),
        None => Vec::new(),
    };
    for (key, url) in [("base_url", &raw.base_url), ("claude_base_url", &raw.claude_base_url)] {
        let Some(url) = url else { continue };
        match Address::parse(&url.value.value) {
            Err(BadAddress(why, hint)) => {
                problems.error(&at.key(key), url.span.clone(), why).hint(hint);
            }
            // What runs on one's own machine is not known by its host.
            Ok(address) if address.host() == "localhost" => {}
            Ok(address) => hosts.push(ModelPattern::new(&address.host().to_lowercase())),
        }
    }
    let path = text(&raw.rerank_path);
    if let Some(written) = raw.rerank_path.as_ref().filter(|path| !path.value.value.starts_with('/')) {
        problems.error(&at.key("rerank_path"), written.span.clone(), "does not begin with a slash");
    }
    let known = raw.betas.iter().flat_map(|map| &map.value.0);
    let errors = raw.errors.as_ref().map(|rows| rows.value.as_slice()).unwrap_or_default();
    Vendor {
        id: id.into(),
        name: text(&raw.name).unwrap_or_else(|| id.into()),
        base_url: text(&raw.base_url),
        claude_base_url: text(&raw.claude_base_url),
        speaks: raw.speaks.as_ref().map_or(BackendType::OpenAi, |speaks| speaks.value.0),
        wants_key: raw.key.as_ref().is_none_or(|key| key.value),
        responses: raw.responses.as_ref().map(|has| has.value),
        rerank: raw.rerank.as_ref().map(|rerank| Rerank { form: rerank.value.0, path }),
        betas: Betas {
            known: known.map(|entry| (entry.key.as_str().into(), entry.value.value.as_str().into())).collect(),
            unknown: raw.unknown_betas.as_ref().map(|unknown| unknown.value.0).unwrap_or_default(),
        },
        hosts,
        errors: error_rows(errors, &at.key("errors"), problems).into(),
    }
}

/// A row that names its models; `None` beside an error.
fn capability_row(row: At<RawCapabilities>, at: &KeyPath<'_>, problems: &mut Problems) -> Option<CapabilityRow> {
    let RawCapabilities {
        dialect,
        models,
        max_output_tokens,
        thinking,
        efforts,
        min_thinking_tokens,
        sampling,
        structured_output,
        json_schema,
        prefill,
        echoes_thinking,
    } = row.value;
    let (Some(dialect), Some(models)) = (dialect, models) else {
        if !problems.failed_within(at) {
            problems.error(at, row.span, "needs dialect and models");
        }
        return None;
    };
    let texts = |list: At<Vec<At<Text>>>| list.value.into_iter().map(|item| item.value.value.to_lowercase());
    Some(CapabilityRow {
        dialect: dialect.value.0,
        models: texts(models).map(|model| ModelPattern::new(&model)).collect(),
        max_output_tokens: max_output_tokens.map(|n| n.value),
        thinking: thinking.map(|ask| ask.value.0),
        efforts: efforts.map(|list| texts(list).map(String::into_boxed_str).collect()),
        min_thinking_tokens: min_thinking_tokens.map(|n| n.value),
        sampling: sampling.map(|sampling| sampling.value.0),
        structured_output: structured_output.map(|has| has.value),
        json_schema: json_schema.map(|has| has.value),
        prefill: prefill.map(|has| has.value),
        echoes_thinking: echoes_thinking.map(|has| has.value),
    })
}

fn error_rows(raw: &[At<RawError>], at: &KeyPath<'_>, problems: &mut Problems) -> Vec<ErrorRow> {
    let mut rows = Vec::with_capacity(raw.len());
    for (n, row) in raw.iter().enumerate() {
        let RawError { status, codes, says, means } = &row.value;
        let at = at.index(n);
        let Some(means) = means else {
            if !problems.failed_within(&at) {
                problems.error(&at, row.span.clone(), "does not say what it means").hint("means = \"billing\", …");
            }
            continue;
        };
        if status.is_none() && codes.is_none() && says.is_none() {
            problems.error(&at, row.span.clone(), "would match every error").hint("state status, codes or says");
        }
        let texts = |list: &Option<At<Vec<At<Text>>>>| -> Vec<String> {
            list.iter().flat_map(|list| &list.value).map(|item| item.value.value.to_lowercase()).collect()
        };
        rows.push(ErrorRow {
            status: status.iter().flat_map(|list| &list.value).map(|status| status.value).collect(),
            codes: texts(codes).into_iter().map(String::into_boxed_str).collect(),
            says: texts(says).iter().map(|phrase| ModelPattern::new(&format!("*{phrase}*"))).collect(),
            means: means.value.0,
        });
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> ProviderData {
        ProviderData::with_file("mine.toml", text, &ProcessEnvironment).unwrap_or_else(|report| panic!("{report}"))
    }

    #[test]
    fn each_claude_is_asked_to_think_in_its_own_way() {
        for (model, thinking, sampling, max) in [
            ("claude-3-5-haiku-20241022", ThinkingAsk::None, Sampling::All, 8192),
            ("claude-3-7-sonnet-20250219", ThinkingAsk::Budget, Sampling::All, 64_000),
            ("claude-opus-4-1-20250805", ThinkingAsk::Budget, Sampling::One, 32_000),
            ("claude-sonnet-4-20250514", ThinkingAsk::Budget, Sampling::All, 64_000),
            ("claude-sonnet-4-5", ThinkingAsk::Budget, Sampling::One, 64_000),
            ("anthropic/Claude-Opus-4-6", ThinkingAsk::BudgetOrAdaptive, Sampling::One, 64_000),
            ("claude-opus-4-7", ThinkingAsk::Adaptive, Sampling::None, 64_000),
            ("claude-sonnet-5", ThinkingAsk::Adaptive, Sampling::None, 64_000),
        ] {
            let found = ProviderData::bundled().capabilities(Dialect::Anthropic, model);
            assert_eq!(
                (found.thinking, found.sampling, found.max_output_tokens),
                (thinking, sampling, Some(max)),
                "{model}"
            );
        }
    }

    #[test]
    fn reasoning_models_of_openai_take_an_effort_and_no_sampling() {
        for (model, reasons) in
            [("o3-mini", true), ("gpt-5.2", true), ("gpt-5-chat-latest", false), ("gpt-4o", false), ("llama-3", false)]
        {
            let found = ProviderData::bundled().capabilities(Dialect::OpenAi, model);
            assert_eq!(
                (found.thinking == ThinkingAsk::Effort, found.sampling == Sampling::None),
                (reasons, reasons),
                "{model}"
            );
        }
    }

    #[test]
    fn gemini_behind_googles_endpoint_of_openais_dialect_takes_an_effort() {
        let thinking = |model| ProviderData::bundled().capabilities(Dialect::OpenAi, model).thinking;
        assert_eq!(thinking("gemini-3-pro-preview"), ThinkingAsk::Level);
        assert_eq!(thinking("google/gemini-2.5-flash"), ThinkingAsk::Effort);
        assert_eq!(thinking("gemini-2.0-flash"), ThinkingAsk::None);
    }

    #[test]
    fn each_gemini_has_its_own_levels_and_form_of_schemas() {
        let of = |model| ProviderData::bundled().capabilities(Dialect::Gemini, model);
        assert_eq!((of("gemini-3-flash").thinking, of("gemini-3-flash").efforts.len()), (ThinkingAsk::Level, 4));
        assert_eq!(of("gemini-3-pro-preview").efforts.len(), 2);
        assert_eq!(
            (of("gemini-2.5-pro").thinking, of("gemini-2.5-pro").min_thinking_tokens),
            (ThinkingAsk::Budget, 128)
        );
        assert!(of("gemini-2.5-flash").json_schema && !of("gemini-2.0-flash").json_schema);
    }

    #[test]
    fn a_file_comes_before_what_is_built_in_key_by_key_and_row_by_row() {
        let mine = with(
            r#"
            [vendors.deepseek]
            responses = true
            betas = { "a-2025-01-01" = "b-2025-01-01", "c-2025-01-01" = "" }
            [vendors.mine]
            base_url = "https://llm.corp.example/api/v1"
            [[capabilities]]
            dialect = "anthropic"
            models = ["claude-sonnet-4-5"]
            max_output_tokens = 1000
            [[errors]]
            status = [418]
            says = ["no tea*left"]
            means = "billing"
            "#,
        );
        let deepseek = mine.vendor("deepseek").unwrap();
        assert_eq!((deepseek.responses, deepseek.name.as_ref()), (Some(true), "DeepSeek"));
        let names = ["a-2025-01-01", "c-2025-01-01", "d-2025-01-01"].map(|beta| deepseek.betas.name_of(beta));
        assert_eq!(names, [Some("b-2025-01-01"), None, None]);
        assert_eq!(mine.vendor_of_host("LLM.corp.example").unwrap().id.as_ref(), "mine");
        let sonnet = mine.capabilities(Dialect::Anthropic, "claude-sonnet-4-5");
        assert_eq!((sonnet.max_output_tokens, sonnet.thinking), (Some(1000), ThinkingAsk::Budget));
        let errors = mine.errors(Some(deepseek));
        assert_eq!(errors.meaning(418, "", "there is no tea that is left"), Some(Meaning::Billing));
        assert_eq!(errors.meaning(400, "context_length_exceeded", ""), Some(Meaning::ContextOverflow));
        assert_eq!(errors.meaning(500, "context_length_exceeded", ""), None);
    }

    #[test]
    fn everything_that_is_wrong_with_a_file_is_told_with_its_place() {
        let text = "[vendors.x]\nbase_url = \"x\"\nspeeks = \"openai\"\n[[errors]]\nmeans = \"billing\"\n\
                    [[errors]]\nstatus = [400]\nmeans = \"bill\"\n[[capabilities]]\nmodels = []\n";
        let report = ProviderData::with_file("mine.toml", text, &ProcessEnvironment).unwrap_err();
        let lines: Vec<String> = report.lines().map(|(_, line)| line).collect();
        for expected in [
            "mine.toml:2:12: vendors.x.base_url: has no scheme",
            "mine.toml:3:1: vendors.x.speeks: unknown key (did you mean \"speaks\"?)",
            "mine.toml:4:1: errors[0]: would match every error",
            "mine.toml:8:9: errors[1].means: \"bill\" is not one of",
            "mine.toml:9:1: capabilities[0]: needs dialect and models",
        ] {
            assert!(lines.iter().any(|line| line.starts_with(expected)), "{expected}\n{lines:#?}");
        }
    }

    #[test]
    fn every_vendor_that_is_built_in_has_an_address_or_is_recognised_by_its_hosts() {
        for vendor in ProviderData::bundled().vendors() {
            assert!(vendor.base_url.is_some() || !vendor.hosts.is_empty(), "{}", vendor.id);
        }
        let found = |host| ProviderData::bundled().vendor_of_host(host).map(|vendor| vendor.id.to_string());
        assert_eq!(found("api.deepseek.com").as_deref(), Some("deepseek"));
        assert_eq!(found("r.openai.azure.com").as_deref(), Some("azure"));
        assert_eq!(found("localhost"), None);
    }
}
