//! Whether a permitted request may run now: limits and budgets, all of them or none.
//!
//! Who has neither pays for two looks at empty fields. How much a request may use is found only where something is limited by it,
//! first from its bytes; a request that would be refused for that alone is looked at more closely and asked for once more.

use berry_core::money::NanoUsd;
use berry_core::operation::Operation;
use berry_core::quota::Standing;
use berry_core::time::Instant;
use berry_relay::bound::{Bound, Measure};
use berry_relay::exchange::{Facts, Held};
use berry_relay::forward::{RelayRequest, RequestBody};

use crate::app::{App, Runtime};
use crate::budgets::{Accounts, Reserved};
use crate::cluster::Patience;
use crate::quotas::{self, Asked, Counted, Refused, Wish};

/// A request that may run.
#[derive(Default)]
pub struct Admitted {
    /// What it holds until it ends; nothing where nothing concerns it.
    pub held: Option<Box<dyn Held>>,
    /// What is left for requests after it.
    pub standing: Option<Standing>,
}

/// Lets a request run, or says why not; a refused one consumes nothing. As long as `patience` lets it ask the store that instances
/// share, [`Refused::is_unasked`] may hold.
///
/// # Errors
/// The limit or budget that refuses.
pub fn admit(
    app: &App,
    runtime: &Runtime,
    request: &RelayRequest,
    operation: Operation,
    patience: Patience,
    now: Instant,
) -> Result<Admitted, Refused> {
    let accounts = app.budgets.of(&request.user, &runtime.snapshot);
    if request.user.limits.is_none() && accounts.is_empty() {
        return Ok(Admitted::default());
    }
    let candidate = Candidate { app, runtime, request, patience, now };
    if accounts.is_empty() && !quotas::limits_tokens(&request.user, &request.model) {
        return candidate.admit(accounts, Bound::default());
    }
    let bound = |measure: fn(Operation, &RequestBody) -> Measure| {
        let RelayRequest { body, model, provider, .. } = request;
        measure(operation, body).bound(model, body.model(), provider.as_deref())
    };
    let coarse = bound(Measure::coarse);
    match candidate.admit(accounts.clone(), coarse) {
        Err(refused) if refused.is_by_size() => candidate.admit(accounts, bound(Measure::closer)),
        decided => decided,
    }
    .inspect_err(|refused| {
        if let (Refused::Budget { refusal, .. }, false) = (refused, refused.is_unasked()) {
            app.budgets.note_refusal(&refusal.holder);
        }
    })
}

/// What stays the same however large the request is taken to be.
struct Candidate<'a> {
    app: &'a App,
    runtime: &'a Runtime,
    request: &'a RelayRequest,
    patience: Patience,
    now: Instant,
}

impl Candidate<'_> {
    fn admit(&self, accounts: Accounts, bound: Bound) -> Result<Admitted, Refused> {
        let Self { app, runtime, request, patience, now } = *self;
        let refused = |refusal| Refused::Budget { refusal: Box::new(refusal), bound: bound.cost, now };
        let budgets = |wish| {
            if wish == Wish::Look {
                let refusal = app.budgets.refusal(&accounts, bound.cost, &runtime.calendar, now);
                return refusal.map_or(Ok(None), |refusal| Err(refused(refusal)));
            }
            let sharing = app.budgets.sharing(patience < Patience::Over);
            let reserved = app.budgets.reserve(accounts, bound.cost, sharing.as_ref(), &runtime.calendar, now);
            reserved.map_err(refused)
        };
        let asked = Asked { tokens: bound.tokens, may_ask: patience == Patience::Fresh, now };
        let (counted, standing, reserved) = app.quotas.admit(&request.user, &request.model, asked, budgets)?;
        let held =
            (counted.is_some() || reserved.is_some()).then(|| Box::new(Running { counted, reserved }) as Box<dyn Held>);
        Ok(Admitted { held, standing })
    }
}

/// A request in flight.
struct Running {
    counted: Option<Counted>,
    reserved: Option<Reserved>,
}

impl Held for Running {
    fn settle(&mut self, facts: &Facts, now: Instant) {
        if let Some(counted) = self.counted.take() {
            counted.end(facts.usage.total(), now);
        }
        if let Some(reserved) = self.reserved.take() {
            reserved.settle(facts.cost.map_or(NanoUsd::ZERO, |cost| cost.total));
        }
    }
}
