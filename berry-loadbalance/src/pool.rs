//! The endpoints behind one model, and the choice among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berry_core::config::snapshot::Model;
use berry_core::id::BackendId;
use berry_core::time::Instant;
use rand::rngs::SmallRng;
use smallvec::SmallVec;

use crate::affinity;
use crate::chance::{Chance, Rotation};
use crate::cost;
use crate::eligibility::{self, Demand, Exclusion, Hints, Rescue, Skip, Standing};
use crate::endpoint::{Endpoint, Suspicion};
use crate::explain::Decision;
use crate::lease::Lease;
use crate::picker::{self, Candidate, Needs, PickContext, Picker};
use crate::probe::{self, Probe};
use crate::retry_budget::RetryBudget;
use crate::rules::Rules;
use crate::selector::{NoRoute, Shortage};

/// The live side of one model.
#[derive(Debug)]
pub struct Pool {
    model: Arc<Model>,
    rules: Rules,
    endpoints: Vec<Arc<Endpoint>>,
    picker: &'static dyn Picker,
    state: Arc<PoolState>,
}

/// What is carried over a reload.
#[derive(Debug, Default)]
pub(crate) struct PoolState {
    rotation: Rotation,
    selections: AtomicU64,
    panics: AtomicU64,
    retries: RetryBudget,
}

/// Candidates and the rest of a pool, for one choice.
#[derive(Debug, Default)]
pub(crate) struct Field {
    pub(crate) candidates: SmallVec<[Candidate; 16]>,
    standings: SmallVec<[Standing; 16]>,
    pub(crate) skipped: SmallVec<[Skip; 16]>,
    pub(crate) rescue: Option<Rescue>,
    /// Whether every candidate is one that only probes speak against.
    suspected: bool,
}

impl Field {
    fn admit(&mut self, candidate: Candidate, standing: Standing) {
        self.candidates.push(candidate);
        self.standings.push(standing);
    }

    /// Somebody else was faster.
    fn withdraw(&mut self, index: usize, reason: Exclusion, endpoint: &Endpoint) {
        let position = self.candidates.remove(index).position;
        self.standings.remove(index);
        let until = match reason {
            Exclusion::CircuitOpen => endpoint.circuit().trial_due(),
            Exclusion::Parked => Some(endpoint.next_let_through()),
            _ => None,
        };
        self.skipped.push(Skip { position, reason, until });
    }

    /// Gives up soft reasons, one stage after another, until there is a candidate. `false` when there is nothing more to give up.
    fn rescue(&mut self, pool: &Pool, demand: &Demand<'_>) -> bool {
        for stage in Rescue::ALL {
            if self.rescue.is_some_and(|done| stage <= done) || (stage == Rescue::LetThrough && !self.only_parked()) {
                continue;
            }
            self.rescue = Some(stage);
            let (back, still): (SmallVec<[Skip; 16]>, _) = self.skipped.iter().copied().partition(|skip| {
                let waits = stage == Rescue::LetThrough && skip.until.is_some_and(|until| until > demand.now);
                stage.brings_back(skip.reason) && !waits
            });
            self.skipped = still;
            for skip in &back {
                let standing = Standing { trial: stage == Rescue::Trial, let_through: stage == Rescue::LetThrough };
                self.admit(pool.candidate(skip.position, demand, standing, pool.picker.needs()), standing);
            }
            if !back.is_empty() {
                return true;
            }
        }
        false
    }

    /// Whether nothing but parked endpoints could serve the request, and none was tried before.
    fn only_parked(&self) -> bool {
        self.skipped.iter().all(|skip| {
            Rescue::LetThrough.brings_back(skip.reason) || (skip.reason.is_lasting() && skip.reason != Exclusion::Tried)
        })
    }
}

impl Pool {
    /// Made by [`crate::reconcile`].
    pub(crate) fn assemble(
        model: Arc<Model>,
        rules: Rules,
        endpoints: Vec<Arc<Endpoint>>,
        state: Arc<PoolState>,
    ) -> Self {
        Self { picker: picker::for_strategy(model.strategy), model, rules, endpoints, state }
    }

    pub(crate) fn state(&self) -> &Arc<PoolState> {
        &self.state
    }

    /// The model as configured.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Its endpoints, in file order.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The picker of its strategy.
    pub(crate) fn picker(&self) -> &'static dyn Picker {
        self.picker
    }

    /// How often one of them was chosen.
    pub fn selections(&self) -> u64 {
        self.state.selections.load(Ordering::Relaxed)
    }

    /// How often one was chosen although its probes or its success rate speak against it, because nobody better was left.
    pub fn panics(&self) -> u64 {
        self.state.panics.load(Ordering::Relaxed)
    }

    /// The retries of this model.
    pub fn retries(&self) -> &RetryBudget {
        &self.state.retries
    }

    /// Chooses an endpoint for one attempt.
    ///
    /// # Errors
    /// Every endpoint's reason, when none may be considered.
    pub fn choose(&self, demand: &Demand<'_>, rng: &mut SmallRng) -> Result<Lease, NoRoute> {
        let mut chance = Chance::new(rng, &self.state.rotation);
        self.decide(demand, &mut Field::default(), &mut chance).map(|(lease, _)| lease)
    }

    /// As [`Pool::choose`], with the record of how it was decided.
    pub fn choose_explained(&self, demand: &Demand<'_>, rng: &mut SmallRng) -> (Result<Lease, NoRoute>, Decision) {
        let mut chance = Chance::new(rng, &self.state.rotation);
        let mut field = Field::default();
        let result = self.decide(demand, &mut field, &mut chance);
        let chosen = result.as_ref().ok().map(|(_, index)| *index);
        let decision = Decision::new(self, self.context(demand.now), field, chosen, &chance);
        (result.map(|(lease, _)| lease), decision)
    }

    /// What [`Pool::choose_explained`] would choose now. Nothing is claimed, counted or moved on by it.
    pub fn rehearse(&self, demand: &Demand<'_>, rng: &mut SmallRng) -> (Result<BackendId, NoRoute>, Decision) {
        let rotation = self.state.rotation.copy();
        let mut chance = Chance::new(rng, &rotation);
        let mut field = Field::default();
        self.gather(demand, &mut field, &mut chance);
        while field.candidates.is_empty() && field.rescue(self, demand) {}
        let context = self.context(demand.now);
        chance.start_over();
        let chosen = self.picker.pick(&context, &field.candidates, &mut chance);
        let result = match chosen {
            Some(index) => Ok(self.endpoints[field.candidates[index].position].backend().id.clone()),
            None => Err(self.refusal(demand, &field)),
        };
        (result, Decision::new(self, context, field, chosen, &chance))
    }

    fn decide(
        &self,
        demand: &Demand<'_>,
        field: &mut Field,
        chance: &mut Chance<'_>,
    ) -> Result<(Lease, usize), NoRoute> {
        if demand.tried.is_empty() {
            self.state.retries.deposit(demand.now);
        }
        self.gather(demand, field, chance);
        let context = self.context(demand.now);
        let jitter = chance.draw();
        loop {
            if field.candidates.is_empty() && !field.rescue(self, demand) {
                return Err(self.refusal(demand, field));
            }
            chance.start_over();
            let Some(index) = self.picker.pick(&context, &field.candidates, chance) else {
                return Err(self.refusal(demand, field));
            };
            let position = field.candidates[index].position;
            match self.endpoints[position].claim(field.standings[index], demand.now, jitter) {
                Ok(claim) => {
                    self.state.selections.fetch_add(1, Ordering::Relaxed);
                    let panic = field.suspected || field.rescue == Some(Rescue::Panic);
                    self.state.panics.fetch_add(u64::from(panic), Ordering::Relaxed);
                    let endpoint = Arc::clone(&self.endpoints[position]);
                    return Ok((Lease::new(endpoint, position, claim, field.rescue), index));
                }
                Err(reason) => field.withdraw(index, reason, &self.endpoints[position]),
            }
        }
    }

    pub(crate) fn context(&self, now: Instant) -> PickContext {
        PickContext::new(now, &self.rules.smart_ai)
    }

    fn gather(&self, demand: &Demand<'_>, field: &mut Field, chance: &mut Chance<'_>) {
        let (needs, draw_recovery) = (self.picker.needs(), !self.picker.weighs_recovery());
        field.suspected = true;
        for (position, endpoint) in self.endpoints.iter().enumerate() {
            match eligibility::check(endpoint, position, demand, draw_recovery, chance) {
                Ok(standing) => {
                    let candidate = self.candidate(position, demand, standing, needs);
                    field.suspected &= !candidate.healthy && endpoint.suspicion(demand.now) == Some(Suspicion::Probe);
                    field.admit(candidate, standing);
                }
                Err((reason, until)) => field.skipped.push(Skip { position, reason, until }),
            }
        }
        field.suspected &= !field.candidates.is_empty();
    }

    fn candidate(&self, position: usize, demand: &Demand<'_>, standing: Standing, needs: Needs) -> Candidate {
        let candidate = self.look(position, demand.now, &demand.hints, needs);
        if !standing.trial {
            return candidate;
        }
        // A trial is there to be made: what led to the open circuit is not held against it a second time.
        Candidate { healthy: true, recovery: TRIAL_SHARE, ..candidate }
    }

    /// A plain copy of what there is to know about an endpoint.
    pub(crate) fn look(&self, position: usize, now: Instant, hints: &Hints, needs: Needs) -> Candidate {
        let endpoint = &*self.endpoints[position];
        let backend = endpoint.backend();
        let nanos = |latency: Duration| u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let affinity = |conversation| affinity::draw_of(conversation, endpoint.hash());
        Candidate {
            position,
            weight: backend.weight,
            priority: backend.priority,
            premium: endpoint.is_premium(),
            healthy: endpoint.suspicion(now).is_none(),
            recovery: endpoint.circuit().share(),
            in_flight: endpoint.in_flight(),
            latency_nanos: if needs.latency { endpoint.latency(now).map(nanos) } else { None },
            confidence: needs.confidence.then(|| endpoint.confidence(now)),
            cost_nanos: if needs.cost {
                cost::expected(endpoint.prices(), hints).map(|cost| cost.as_nanos())
            } else {
                None
            },
            affinity: if needs.affinity { hints.conversation.map(affinity) } else { None },
        }
    }

    /// Why nothing can be chosen.
    fn refusal(&self, demand: &Demand<'_>, field: &Field) -> NoRoute {
        let skipped = &field.skipped;
        let model = self.model.name.clone();
        let all = |reason: Exclusion| !skipped.is_empty() && skipped.iter().all(|skip| skip.reason <= reason);
        if demand.provider.is_some() && all(Exclusion::OtherProvider) {
            return NoRoute::UnknownProvider { model };
        }
        if all(Exclusion::Tags) && skipped.iter().any(|skip| skip.reason == Exclusion::Tags) {
            return NoRoute::Tags { model, tags: demand.tags.to_vec() };
        }
        let waiting = || skipped.iter().filter(|skip| !skip.reason.is_lasting());
        let shortage = Shortage::of(waiting().map(|skip| skip.reason));
        let next = waiting().filter_map(|skip| skip.until).min();
        let retry_after = next.map(|until| until.since(demand.now)).or(shortage.default_wait());
        let name = |skip: &Skip| (self.endpoints[skip.position].backend().id.clone(), skip.reason);
        NoRoute::NothingEligible {
            model,
            skipped: skipped.iter().map(name).collect::<Vec<(BackendId, Exclusion)>>(),
            shortage,
            retry_after,
        }
    }

    /// Takes the probes that are due now.
    pub fn due_probes(&self, now: Instant) -> impl Iterator<Item = Probe> {
        let strategy = self.model.strategy;
        self.endpoints.iter().filter_map(move |endpoint| probe::take(endpoint, strategy, now))
    }

    /// When the next probe is due.
    pub fn next_probe(&self, now: Instant) -> Option<Instant> {
        let due = |endpoint: &Arc<Endpoint>| probe::due(endpoint, self.model.strategy, now);
        self.endpoints.iter().filter_map(due).map(|(at, _)| at).min()
    }
}

/// Share of its weight that an endpoint has while it waits for its trial: that of the stage that a good trial leads to.
const TRIAL_SHARE: f64 = 0.3;

#[cfg(test)]
mod tests;
