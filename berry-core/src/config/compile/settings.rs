//! `[settings]`.

use std::path::PathBuf;

use jiff::tz::TimeZone;

use crate::config::decode::{At, Decode as _, Seconds, Text, defaults};
use crate::config::path::KeyPath;
use crate::config::problem::{Problems, Span};
use crate::config::raw::{RawAdjustments, RawSettings, RawSmartAi};
use crate::config::snapshot::{Adjustments, BudgetZone, Circuit, Probing, Settings, SmartAi};

use super::providers::Silences;

/// What of `[settings]` the providers need, and where it says that keys are shown.
pub(super) struct Times {
    /// The finer keys.
    pub(super) finer: Silences,
    /// `request_timeout_seconds`.
    pub(super) request: Option<Seconds>,
    /// Where `mask_api_keys` is.
    pub(super) mask_api_keys: Option<Span>,
    /// `price_book`.
    pub(super) price_book: Option<At<PathBuf>>,
    /// `provider_data`.
    pub(super) provider_data: Option<At<PathBuf>>,
}

/// Compiles `[settings]`.
pub(super) fn compile(raw: Option<At<RawSettings>>, at: &KeyPath<'_>, problems: &mut Problems) -> (Settings, Times) {
    let RawSettings {
        health_check_interval_seconds,
        health_check_timeout_seconds,
        recovery_check_interval_seconds,
        request_timeout_seconds,
        completion_timeout_seconds,
        first_token_timeout_seconds,
        stream_idle_timeout_seconds,
        connect_timeout_seconds,
        total_timeout_seconds,
        max_retries,
        max_internal_retries,
        circuit_breaker_failure_threshold,
        circuit_breaker_timeout_seconds,
        log_request_body,
        log_response_body,
        mask_api_keys,
        budget_timezone,
        price_book,
        refuse_unpriced,
        provider_data,
        smart_ai,
    } = raw.map_or_else(defaults, |raw| raw.value);
    let times = Times {
        finer: Silences {
            completion: completion_timeout_seconds.map(|t| t.value),
            first_token: first_token_timeout_seconds.map(|t| t.value),
            stream_idle: stream_idle_timeout_seconds.map(|t| t.value),
            connect: connect_timeout_seconds.map(|t| t.value),
        },
        request: request_timeout_seconds.map(|t| t.value),
        mask_api_keys: mask_api_keys.span,
        price_book,
        provider_data,
    };
    let settings = Settings {
        log_request_body: log_request_body.value,
        log_response_body: log_response_body.value,
        mask_api_keys: mask_api_keys.value,
        max_retries: max_retries.value,
        max_internal_retries: max_internal_retries.value,
        total_timeout: total_timeout_seconds.value.duration(),
        probing: Probing {
            interval: health_check_interval_seconds.value.duration(),
            timeout: health_check_timeout_seconds.value.duration(),
            recovery_interval: recovery_check_interval_seconds.value.duration(),
        },
        circuit: Circuit {
            failure_threshold: circuit_breaker_failure_threshold.value,
            timeout: circuit_breaker_timeout_seconds.value.duration(),
        },
        smart_ai: smart_ai_figures(smart_ai, &at.key("smart_ai"), problems),
        refuse_unpriced: refuse_unpriced.value,
        budget_zone: budget_timezone
            .map_or_else(BudgetZone::default, |zone| budget_zone(&zone, &at.key("budget_timezone"), problems)),
    };
    (settings, times)
}

fn smart_ai_figures(raw: Option<At<RawSmartAi>>, at: &KeyPath<'_>, problems: &mut Problems) -> SmartAi {
    let RawSmartAi {
        initial_confidence,
        min_confidence,
        enable_time_decay,
        lightweight_check_interval_seconds,
        exploration_ratio,
        non_premium_stability_bonus,
        confidence_adjustments,
    } = raw.map_or_else(defaults, |raw| raw.value);
    if min_confidence.value > initial_confidence.value {
        let (min, initial) = (min_confidence.value.to_toml(), initial_confidence.value.to_toml());
        let span = min_confidence.span.clone().or(initial_confidence.span.clone());
        problems
            .error(&at.key("min_confidence"), span, format!("{min} is above initial_confidence, {initial}"))
            .hint("confidence starts at initial_confidence and never falls below min_confidence");
    }
    let RawAdjustments {
        success_boost,
        network_error_penalty,
        auth_error_penalty,
        rate_limit_penalty,
        server_error_penalty,
        model_error_penalty,
        timeout_penalty,
    } = confidence_adjustments.map_or_else(defaults, |raw| raw.value);
    SmartAi {
        initial_confidence: initial_confidence.value,
        min_confidence: min_confidence.value,
        time_decay: enable_time_decay.value,
        lightweight_check_interval: lightweight_check_interval_seconds.value.duration(),
        exploration_ratio: exploration_ratio.value,
        non_premium_stability_bonus: non_premium_stability_bonus.value,
        adjustments: Adjustments {
            success_boost: success_boost.value,
            network_error_penalty: network_error_penalty.value,
            auth_error_penalty: auth_error_penalty.value,
            rate_limit_penalty: rate_limit_penalty.value,
            server_error_penalty: server_error_penalty.value,
            model_error_penalty: model_error_penalty.value,
            timeout_penalty: timeout_penalty.value,
        },
    }
}

/// `UTC`, `+08:00`, or a name that the time zone database has.
fn budget_zone(zone: &At<Text>, at: &KeyPath<'_>, problems: &mut Problems) -> BudgetZone {
    let text = zone.value.value.as_str();
    if matches!(text, "UTC" | "Z") {
        return BudgetZone::Utc;
    }
    if let Some(minutes) = offset_minutes(text) {
        return BudgetZone::Offset(minutes);
    }
    if text.contains('/') && TimeZone::get(text).is_ok() {
        return BudgetZone::Named(text.into());
    }
    problems
        .error(at, zone.span.clone(), format!("{} is not a time zone", zone.value.shown()))
        .hint("write \"UTC\", an offset such as \"+08:00\", or a name such as \"Asia/Shanghai\"");
    BudgetZone::Utc
}

fn offset_minutes(text: &str) -> Option<i16> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let two = |part: &str| (part.len() == 2).then(|| part.parse::<i16>().ok()).flatten();
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (hours <= 14 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::mask::Masked;

    #[test]
    fn a_time_zone_is_utc_an_offset_or_a_name() {
        for (text, expected) in [
            ("UTC", Some(BudgetZone::Utc)),
            ("+08:00", Some(BudgetZone::Offset(480))),
            ("-03:30", Some(BudgetZone::Offset(-210))),
            ("Asia/Shanghai", Some(BudgetZone::Named("Asia/Shanghai".into()))),
            ("+25:00", None),
            ("+8", None),
            ("Beijing", None),
            ("Asia/", None),
            ("Asia/Shangai", None),
        ] {
            let mut problems = Problems::default();
            let zone = At { value: Text::literal(text), span: None };
            let found = budget_zone(&zone, &KeyPath::ROOT, &mut problems);
            let failed = !problems.finish("x", &Masked::new("", Vec::new(), false)).is_empty();
            assert_eq!((!failed).then_some(found), expected, "{text}");
        }
    }
}
