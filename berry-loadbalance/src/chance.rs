//! What a choice depends on beside the candidates: random draws and the turn of a rotation.
//!
//! A picker asks for these here and nowhere else. Every answer is noted, so that a recorded choice can be made again from its
//! record alone, by [`Chance::replay`] or by hand. A draw is a whole number below 2³², which any JSON reader keeps exactly.

use std::sync::atomic::{AtomicU64, Ordering};

use rand::RngExt as _;
use rand::rngs::SmallRng;
use smallvec::SmallVec;

/// Draws that were made, in order.
pub type Draws = SmallVec<[u32; 8]>;

/// The last position that a rotation gave out, shared by everybody who takes a turn.
#[derive(Debug)]
pub struct Rotation(AtomicU64);

impl Rotation {
    const NONE: u64 = u64::MAX;

    /// One that stands where this one does, and goes its own way from there.
    pub(crate) fn copy(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }

    /// The last position; `None` before the first turn.
    fn last(word: u64) -> Option<usize> {
        (word != Self::NONE).then_some(word as usize)
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self(AtomicU64::new(Self::NONE))
    }
}

#[derive(Debug)]
enum Source<'a> {
    Live(&'a mut SmallRng, &'a Rotation),
    Replay(std::slice::Iter<'a, u32>, Option<usize>),
}

/// A source of draws and turns that notes what it gave.
#[derive(Debug)]
pub struct Chance<'a> {
    source: Source<'a>,
    draws: Draws,
    turn: Option<usize>,
}

impl<'a> Chance<'a> {
    /// Draws from `rng`, takes turns from `rotation`.
    pub fn new(rng: &'a mut SmallRng, rotation: &'a Rotation) -> Self {
        Self { source: Source::Live(rng, rotation), draws: Draws::new(), turn: None }
    }

    /// Gives again what was given before; zeros when more is asked for.
    pub fn replay(draws: &'a [u32], turn: Option<usize>) -> Self {
        Self { source: Source::Replay(draws.iter(), turn), draws: Draws::new(), turn: None }
    }

    /// A whole number below 2³², each equally likely.
    pub fn draw(&mut self) -> u32 {
        let draw = match &mut self.source {
            Source::Live(rng, _) => rng.random(),
            Source::Replay(draws, _) => draws.next().copied().unwrap_or(0),
        };
        self.draws.push(draw);
        draw
    }

    /// From 0 to below 1: a draw over 2³².
    pub fn unit(&mut self) -> f64 {
        unit(self.draw())
    }

    /// Below `n`, each equally likely to within 2⁻³²·n; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.draw()) * n as u64) >> 32) as usize
    }

    /// Takes a turn: `next` says which position follows the last one, and nobody else gets a turn in between.
    pub fn rotate(&mut self, next: impl Fn(Option<usize>) -> usize) -> usize {
        let (turn, position) = match &self.source {
            Source::Live(_, rotation) => {
                let step = |word| Some(next(Rotation::last(word)) as u64);
                let word = rotation
                    .0
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
                    .expect("the step always gives a position");
                (Rotation::last(word), next(Rotation::last(word)))
            }
            Source::Replay(_, turn) => (*turn, next(*turn)),
        };
        self.turn = turn;
        position
    }

    /// Forgets what was noted so far: what follows is a choice of its own.
    pub(crate) fn start_over(&mut self) {
        self.draws.clear();
        self.turn = None;
    }

    /// What was noted: the draws, and the position before the turn that was taken.
    pub fn noted(&self) -> (&[u32], Option<usize>) {
        (&self.draws, self.turn)
    }
}

/// A draw as a number from 0 to below 1.
pub fn unit(draw: u32) -> f64 {
    f64::from(draw) / 4_294_967_296.0
}
