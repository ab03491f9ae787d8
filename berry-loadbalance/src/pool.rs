//! The endpoints behind one model, and the choice among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berry_core::config::snapshot::Model;
use berry_core::id::BackendId;
use berry_core::time::Instant;
use rand::rngs::SmallRng;
use smallvec::SmallVec;

use crate::affinity;
use crate::chance::{Chance, Rotation};
use crate::cost::Size;
use crate::eligibility::{self, Demand, Exclusion, Hints, Rescue, Skip, Standing};
use crate::endpoint::{Endpoint, Suspicion};
use crate::explain::Decision;
use crate::lease::Lease;
use crate::picker::{self, Candidate, Needs, PickContext, Picker};
use crate::probe::{self, Probe};
use crate::queue::Queue;
use crate::retry_budget::RetryBudget;
use crate::rules::Rules;
use crate::selector::{NoRoute, Shortage};

/// The live side of one model.
#[derive(Debug)]
pub struct Pool {
    model: Arc<Model>,
    rules: Arc<Rules>,
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
    pub(crate) queue: Arc<Queue>,
}

/// Candidates and the rest of a pool, for one choice.
#[derive(Debug, Default)]
pub(crate) struct Field {
    pub(crate) candidates: SmallVec<[Candidate; 16]>,
    pub(crate) skipped: SmallVec<[Skip; 16]>,
    pub(crate) rescue: Option<Rescue>,
    /// Whether every candidate is one that only probes speak against.
    suspected: bool,
}

impl Field {
    fn admit(&mut self, endpoint: &Endpoint, position: usize, standing: Standing, question: &Question) {
        self.candidates.push(Candidate::new(position, 1.0, 0));
        let candidate = self.candidates.last_mut().expect("one was just pushed");
        question.answer(candidate, endpoint);
        let by_probe = || endpoint.suspicion(question.now) == Some(Suspicion::Probe);
        self.suspected = self.suspected && !candidate.healthy && by_probe();
        candidate.recovery = standing.share;
        if standing.trial {
            // A trial is there to be made: what led to the open circuit is not held against it a second time.
            candidate.trial = true;
            candidate.healthy = true;
            candidate.recovery = TRIAL_SHARE;
        }
    }

    /// Somebody else was faster.
    fn withdraw(&mut self, index: usize, reason: Exclusion, endpoint: &Endpoint) {
        let position = self.candidates.remove(index).position;
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
            let (back, still): (SmallVec<[Skip; 16]>, _) =
                self.skipped.iter().copied().partition(|skip| stage.brings_back(skip.reason));
            self.skipped = still;
            for skip in &back {
                let endpoint = &pool.endpoints[skip.position];
                let standing = Standing { trial: stage == Rescue::Trial, share: endpoint.circuit().share() };
                self.admit(endpoint, skip.position, standing, &pool.question(demand));
                if matches!(stage, Rescue::Panic | Rescue::LetThrough) {
                    // As if healthy: otherwise those with nothing but a bad name would have no weight at all.
                    let candidate = self.candidates.last_mut().expect("one was just admitted");
                    (candidate.healthy, candidate.recovery) = (true, 1.0);
                }
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
        rules: Arc<Rules>,
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

    /// Requests that wait until one of its backends has a place.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.state.queue
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
        if demand.tried.is_empty() && !demand.hints.retried {
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
            let trial = field.candidates[index].trial;
            let let_through = field.rescue == Some(Rescue::LetThrough);
            match self.endpoints[position].claim(trial, let_through, demand.now, jitter) {
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

    fn question(&self, demand: &Demand<'_>) -> Question {
        Question::new(demand.now, &demand.hints, self.picker.needs())
    }

    fn gather(&self, demand: &Demand<'_>, field: &mut Field, chance: &mut Chance<'_>) {
        let (question, draw_recovery) = (self.question(demand), !self.picker.weighs_recovery());
        field.suspected = true;
        if self.endpoints.len() > field.candidates.inline_size() {
            field.candidates.reserve(self.endpoints.len());
        }
        for (position, endpoint) in self.endpoints.iter().enumerate() {
            match eligibility::check(endpoint, position, demand, draw_recovery, chance) {
                Ok(standing) => field.admit(endpoint, position, standing, &question),
                Err((reason, until)) => field.skipped.push(Skip { position, reason, until }),
            }
        }
        field.suspected &= !field.candidates.is_empty();
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

/// What a choice wants to know of every endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    now: Instant,
    needs: Needs,
    size: Size,
    conversation: Option<u64>,
}

impl Question {
    pub(crate) fn new(now: Instant, hints: &Hints, needs: Needs) -> Self {
        Self { now, needs, size: Size::of(hints), conversation: hints.conversation }
    }

    /// Fills in what there is to know about an endpoint. In place, since copying a value whose parts were just written makes
    /// the processor wait for them, which for a thousand candidates is much of the time.
    pub(crate) fn answer(&self, candidate: &mut Candidate, endpoint: &Endpoint) {
        let facts = endpoint.facts();
        candidate.weight = facts.weight;
        candidate.priority = facts.priority;
        candidate.premium = facts.premium;
        candidate.healthy = endpoint.suspicion(self.now).is_none();
        candidate.in_flight = endpoint.in_flight();
        if self.needs.latency {
            candidate.latency_nanos = endpoint.latency_nanos(self.now);
        }
        if self.needs.confidence {
            candidate.confidence = Some(endpoint.confidence(self.now));
        }
        if self.needs.cost {
            candidate.cost_nanos = facts.expense.expected_nanos(self.size);
        }
        if self.needs.affinity {
            candidate.affinity = self.conversation.map(|conversation| affinity::draw_of(conversation, facts.hash));
        }
    }
}

/// Share of its weight that an endpoint has while it waits for its trial: that of the stage that a good trial leads to.
const TRIAL_SHARE: f64 = 0.3;

#[cfg(test)]
mod tests;
