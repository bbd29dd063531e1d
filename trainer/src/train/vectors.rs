//! That steps are PyTorch's, loss by loss, over 50 of them: optimizers with schedules, warm-up,
//! clipping, accumulation and the running mean. `tests/vectors/make_steps.py` made the figures.

use std::collections::BTreeMap;

use marquee_domain::report::PhaseTimes;
use marquee_domain::spec::{HeadSettings, LrSchedule, Optimizer as Settings, Span, Transfer};
use marquee_domain::zoo;
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::precision::Numbers;
use super::step::{Recipe, StepInput, Stepper};
use crate::data::Batch;
use crate::ema::Ema;
use crate::learner::freeze::Rules;
use crate::learner::{Blueprint, Learner, PartCard};
use crate::loss::Loss;
use crate::models::{Chance, Rates, TORCHSCRIPT};
use crate::optimizer::Optimizer;
use crate::parameters::Start;
use crate::rendezvous::Peers;
use crate::schedule::Schedule;
use crate::tensors::Tensors;

const STEPS: u64 = 50;
const BATCH: u64 = 8;
const WIDTH: u64 = 16;
const HEIGHT: u64 = 24;
const CLASSES: u64 = 5;
const STEPS_PER_EPOCH: u64 = 10;
/// Largest relative difference from PyTorch that passes.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Vectors {
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    losses: Vec<f64>,
    rates: Vec<f64>,
    /// Sum and sum of magnitudes of each weight at the end.
    sums: BTreeMap<String, [f64; 2]>,
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn hashes(stream: u64, count: u64) -> impl Iterator<Item = u64> {
    let start = mix(stream);
    (0..count).map(move |index| mix(start ^ index))
}

fn uniform(stream: u64, shape: &[i64], bound: f64) -> Tensor {
    let count = shape.iter().product::<i64>().unsigned_abs();
    let values: Vec<f64> = hashes(stream, count)
        .map(|bits| (2.0 * ((bits >> 40) as f64 / 2_f64.powi(24)) - 1.0) * bound)
        .collect();
    Tensor::from_slice(&values).view(shape)
}

fn learner() -> Learner {
    let classes = usize::try_from(CLASSES).unwrap();
    let info = zoo::find("simple-cnn").unwrap();
    let blueprint = Blueprint {
        model: info.name.to_owned(),
        parts: vec![PartCard::new("", info, None)],
        head: HeadSettings::default(),
        rates: Rates::default(),
        script: None,
    };
    let learner = Learner::build(
        &blueprint,
        classes,
        Start::Seed(0),
        Kind::Float,
        Device::Cpu,
    )
    .unwrap();
    let weights: Tensors = (1_000..)
        .zip(learner.parameters.entries())
        .map(|(stream, (name, weight))| {
            let inputs: i64 = weight.size()[1..].iter().product();
            let bound = if name.ends_with("bias") {
                0.1
            } else {
                (6.0 / inputs as f64).sqrt()
            };
            (name.clone(), uniform(stream, &weight.size(), bound))
        })
        .collect();
    learner.parameters.load(&weights, "the test").unwrap();
    learner
}

fn batch(step: u64) -> Batch {
    batch_of(step, CLASSES)
}

fn batch_of(step: u64, classes: u64) -> Batch {
    let low = |bits: u64| u8::try_from(bits & 255).unwrap();
    let pixels: Vec<u8> = hashes(2_000 + step, BATCH * HEIGHT * WIDTH * 3)
        .map(low)
        .collect();
    let labels: Vec<u8> = hashes(3_000 + step, BATCH * classes)
        .map(|bits| u8::from(bits & 3 == 0))
        .collect();
    let shape = [BATCH, HEIGHT, WIDTH, 3].map(u64::cast_signed);
    Batch {
        pixels: Tensor::from_slice(&pixels).view(shape),
        labels: Tensor::from_slice(&labels).view([BATCH, classes].map(u64::cast_signed)),
        counted: BATCH,
        global: BATCH,
        first: 0,
    }
}

/// One case: the settings that make_steps.py has under the same name.
struct Setup {
    optimizer: Settings,
    lr_schedule: LrSchedule,
    warmup: Option<Span>,
    clip_norm: Option<f64>,
    accumulate: u32,
    ema_decay: Option<f64>,
}

fn setup(name: &str) -> Setup {
    let sgd = |nesterov, weight_decay| Settings::Sgd {
        lr: 0.01,
        momentum: 0.9,
        nesterov,
        weight_decay,
    };
    let plain = Setup {
        optimizer: sgd(false, 0.0),
        lr_schedule: LrSchedule::Constant,
        warmup: None,
        clip_norm: None,
        accumulate: 1,
        ema_decay: None,
    };
    match name {
        "sgd_nesterov_warmup_cosine_clip" => Setup {
            optimizer: sgd(true, 1e-3),
            lr_schedule: LrSchedule::Cosine,
            warmup: Some(Span::Epochs(0.5)),
            clip_norm: Some(0.5),
            ..plain
        },
        "adamw_onecycle_ema" => Setup {
            optimizer: Settings::AdamW {
                lr: 2e-3,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.05,
            },
            lr_schedule: LrSchedule::OneCycle {
                rise: 0.3,
                start_divisor: 25.0,
                end_divisor: 1e4,
            },
            ema_decay: Some(0.9),
            ..plain
        },
        "sgd_step_accumulate" => Setup {
            lr_schedule: LrSchedule::Step {
                every: Span::Epochs(2.0),
                factor: 0.5,
            },
            accumulate: 3,
            ..plain
        },
        other => panic!("the file has a case {other:?} that the test does not know"),
    }
}

fn relative(found: f64, expected: f64) -> f64 {
    (found - expected).abs() / expected.abs().max(f64::MIN_POSITIVE)
}

#[derive(Deserialize)]
struct ModuleSteps {
    losses: Vec<f64>,
    /// Sum and sum of magnitudes of each tensor at the end, buffers too.
    sums: BTreeMap<String, [f64; 2]>,
}

/// With batch-norm, whose memory is compared too. `tests/vectors/make_modules.py` made the figures.
#[test]
fn steps_of_a_torchscript_module_are_those_of_pytorch() {
    let text = include_str!("../../tests/vectors/module_steps.json");
    let expected: ModuleSteps = serde_json::from_str(text).unwrap();
    let info = zoo::find("simple-cnn").unwrap();
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/",
        env!("MARQUEE_TRAINER_SOURCES"),
        "/tests/data/modules/batch.pt"
    );
    let blueprint = Blueprint {
        model: TORCHSCRIPT.to_owned(),
        parts: vec![PartCard {
            model: TORCHSCRIPT.to_owned(),
            ..PartCard::new("", info, None)
        }],
        head: HeadSettings::default(),
        rates: Rates::default(),
        script: Some(file.into()),
    };
    let learner = Learner::build(&blueprint, 3, Start::Zeros, Kind::Float, Device::Cpu).unwrap();
    learner.check_size(16, 24).unwrap();
    let sgd = Settings::Sgd {
        lr: 0.05,
        momentum: 0.9,
        nesterov: false,
        weight_decay: 1e-3,
    };
    let plain = Rules::new(&Transfer::default(), &learner).unwrap();
    let optimizer = Optimizer::new(sgd, &learner.parameters, plain.of_weights(), 10).unwrap();
    let recipe = Recipe {
        numbers: Numbers::Plain,
        parts: 1,
        clip_norm: None,
        half_gradients: false,
        size: (16, 24),
    };
    let mut stepper = Stepper::new(learner, optimizer, None, Loss::plain(), recipe).unwrap();
    let mut worst = 0.0_f64;
    for (step, loss) in (0..).zip(&expected.losses) {
        let chance = |first| Chance::new(0, step, first);
        let mut phases = PhaseTimes::default();
        let input = StepInput {
            peers: &Peers::alone(),
            lr: 0.05,
            wants_stop: false,
            waited_s: 0.0,
        };
        let told = stepper
            .step(&batch_of(step, 3), &chance, input, &mut phases)
            .unwrap();
        let apart = relative(told[0].loss_sum / BATCH as f64, *loss);
        assert!(apart <= TOLERANCE, "step {step}: loss {apart:e} apart");
        worst = worst.max(apart);
    }
    let mut compared = 0;
    for (name, tensor) in stepper.learner().parameters.state() {
        let found = tensor.to_kind(Kind::Double).abs().sum(Kind::Double);
        let apart = relative(found.double_value(&[]), expected.sums[name][1]);
        assert!(apart <= TOLERANCE, "{name}: {apart:e} apart");
        compared += 1;
    }
    assert_eq!(
        compared,
        expected.sums.len() - 1,
        "all but the counter of batches"
    );
    println!("20 steps of a module: losses {worst:e} apart");
}

#[test]
fn fifty_steps_are_those_of_pytorch() {
    let text = include_str!("../../tests/vectors/steps.json");
    let vectors: Vectors = serde_json::from_str(text).unwrap();
    assert_eq!(vectors.cases.len(), 3);
    for (name, case) in vectors.cases {
        let setup = setup(&name);
        let learner = learner();
        let plain = Rules::new(&Transfer::default(), &learner).unwrap();
        let optimizer = Optimizer::new(
            setup.optimizer,
            &learner.parameters,
            plain.of_weights(),
            STEPS_PER_EPOCH,
        )
        .unwrap();
        let ema = setup
            .ema_decay
            .map(|decay| Ema::new(decay, &learner.parameters).unwrap());
        let schedule = Schedule::of(
            setup.optimizer,
            setup.lr_schedule,
            setup.warmup,
            STEPS_PER_EPOCH,
            STEPS,
        );
        let recipe = Recipe {
            numbers: Numbers::Plain,
            parts: setup.accumulate,
            clip_norm: setup.clip_norm,
            half_gradients: false,
            size: (16, 24),
        };
        let mut stepper = Stepper::new(learner, optimizer, ema, Loss::plain(), recipe).unwrap();
        let mut worst = 0.0_f64;
        for step in 0..STEPS {
            let place = usize::try_from(step).unwrap();
            let lr = schedule.rate(step);
            assert!(
                (lr - case.rates[place]).abs() <= 1e-12,
                "{name}, step {step}: rate {lr} for {}",
                case.rates[place]
            );
            let mut phases = PhaseTimes::default();
            let input = StepInput {
                peers: &Peers::alone(),
                lr,
                wants_stop: false,
                waited_s: 0.0,
            };
            let chance = |first| Chance::new(0, step, first);
            let told = stepper
                .step(&batch(step), &chance, input, &mut phases)
                .unwrap();
            let apart = relative(told[0].loss_sum / BATCH as f64, case.losses[place]);
            assert!(
                apart <= TOLERANCE,
                "{name}, step {step}: loss {apart:e} apart"
            );
            worst = worst.max(apart);
        }
        let mut worst_sum = 0.0_f64;
        stepper
            .with_final_weights(|stepper| {
                for (weight, tensor) in stepper.learner().parameters.entries() {
                    let tensor = tensor.to_kind(Kind::Double);
                    let [sum, size] = case.sums[weight];
                    let found = tensor.abs().sum(Kind::Double).double_value(&[]);
                    let apart = relative(found, size);
                    assert!(apart <= TOLERANCE, "{name}, {weight}: {apart:e} apart");
                    // A sum may be near 0, so it is measured by the size of what it adds up.
                    let shift = tensor.sum(Kind::Double).double_value(&[]) - sum;
                    assert!(
                        shift.abs() <= TOLERANCE * size,
                        "{name}, {weight}: {shift:e} apart"
                    );
                    worst_sum = worst_sum.max(apart);
                }
                Ok(())
            })
            .unwrap();
        println!("{name}: losses {worst:e}, weights {worst_sum:e} apart");
    }
}
