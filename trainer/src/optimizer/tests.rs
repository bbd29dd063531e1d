use tch::{Device, Kind};

use super::*;
use crate::parameters::{Init, Start};

/// Learning rates of five steps.
const RATES: [f64; 5] = [0.1, 0.1, 0.08, 0.05, 0.02];
/// Places in the two parameters, 24 and 2 numbers long, laid end to end.
const PLACES: [usize; 7] = [0, 1, 7, 12, 23, 24, 25];

fn sgd(momentum: f64, nesterov: bool, weight_decay: f64) -> Settings {
    Settings::Sgd {
        lr: 0.0,
        momentum,
        nesterov,
        weight_decay,
    }
}

fn adamw() -> Settings {
    Settings::AdamW {
        lr: 0.0,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.05,
    }
}

/// A convolution's weight, in its channels-last layout, and its bias, set to cosines.
fn parameters(kind: Kind) -> Parameters {
    let mut parameters = Parameters::new(Start::Zeros, kind, Device::Cpu);
    let zero = Init::Constant(0.0);
    let mut root = parameters.root();
    let _ = root.weight("conv.weight", &[2, 3, 2, 2], zero).unwrap();
    let _ = root.weight("conv.bias", &[2], zero).unwrap();
    let values = [("conv.weight", vec![2, 3, 2, 2]), ("conv.bias", vec![2])]
        .into_iter()
        .enumerate()
        .map(|(which, (name, shape))| {
            (
                name.to_owned(),
                wave(which, &shape, |i, k| (0.7 * i + k).cos()),
            )
        })
        .collect();
    parameters.load(&values, "the test").unwrap();
    parameters
}

fn optimizer(settings: Settings, parameters: &Parameters) -> Result<Optimizer, RunError> {
    Optimizer::new(settings, parameters, &[rule(0, 1.0); 2], 1)
}

fn rule(from_epoch: u32, lr_scale: f64) -> Rule {
    Rule {
        from_epoch: Some(from_epoch),
        lr_scale,
    }
}

fn wave(which: usize, shape: &[i64], value: impl Fn(f64, f64) -> f64) -> Tensor {
    let count = shape.iter().product::<i64>();
    let values: Vec<f64> = (0..count).map(|i| value(i as f64, which as f64)).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Gives each parameter the gradient of step `t`, through a backward pass, and steps.
fn step(optimizer: &mut Optimizer, t: usize) {
    optimizer.forget_gradients().unwrap();
    for (which, parameter) in optimizer.parameters.iter().enumerate() {
        let gradient = wave(which, &parameter.size(), |i, k| {
            (1.3 * t as f64 + 0.9 * i + k).sin()
        });
        (parameter * gradient.to_kind(parameter.kind()))
            .sum(parameter.kind())
            .backward();
    }
    optimizer.step(RATES[t - 1], None).unwrap();
}

fn values(parameters: &Parameters) -> Vec<f64> {
    let flat = |tensor: &Tensor| {
        Vec::<f64>::try_from(tensor.to_kind(Kind::Double).contiguous().view(-1)).unwrap()
    };
    parameters.tensors().iter().flat_map(flat).collect()
}

/// The values below are those of `torch.optim` 2.11.0 (Python, default implementation) in f64.
#[test]
fn steps_are_those_of_pytorch() {
    let cases: [(Settings, [f64; 7], f64); 4] = [
        (
            sgd(0.0, false, 0.0),
            [
                0.9469856700351036,
                0.7898980016757309,
                0.13475070381351179,
                -0.5816305886951901,
                -0.8383208211348603,
                0.5739745085952795,
                -0.041626324001215825,
            ],
            0.10840519587975025,
        ),
        (
            sgd(0.9, false, 0.01),
            [
                0.735740987558776,
                0.7280774050119463,
                -0.06877150012782098,
                -0.626495295312748,
                -0.6884894908425738,
                0.5356565043202842,
                0.11045326571548841,
            ],
            0.1118351364069915,
        ),
        (
            sgd(0.9, true, 0.01),
            [
                0.7067457601390331,
                0.7545878788300998,
                -0.09458323332471208,
                -0.6762329451595426,
                -0.6235984993365992,
                0.5682491966839163,
                0.17356845320454492,
            ],
            0.2765266716752791,
        ),
        (
            adamw(),
            [
                0.7762570512001329,
                0.6616804338428577,
                -0.021529382997911024,
                -0.5034826473872531,
                -0.6607411887035431,
                0.45856110423186125,
                0.1239771356248222,
            ],
            -0.2362623817079637,
        ),
    ];
    for (settings, expected, sum) in cases {
        for (kind, allowed) in [(Kind::Double, 1e-12), (Kind::Float, 2e-6)] {
            let parameters = parameters(kind);
            let mut optimizer = optimizer(settings, &parameters).unwrap();
            (1..=5).for_each(|t| step(&mut optimizer, t));
            let found = values(&parameters);
            for (place, expected) in PLACES.into_iter().zip(expected) {
                let apart = (found[place] - expected).abs();
                assert!(
                    apart <= allowed,
                    "{settings:?} {kind:?} [{place}]: {} for {expected}",
                    found[place]
                );
            }
            assert!(
                (found.iter().sum::<f64>() - sum).abs() <= 10.0 * allowed,
                "{settings:?} {kind:?}"
            );
        }
    }
}

#[test]
fn a_restored_optimizer_takes_the_same_steps_bit_for_bit() {
    for settings in [sgd(0.0, false, 0.0), sgd(0.9, true, 0.01), adamw()] {
        let (kept, other) = (parameters(Kind::Float), parameters(Kind::Float));
        let mut undisturbed = optimizer(settings, &kept).unwrap();
        (1..=2).for_each(|t| step(&mut undisturbed, t));

        let mut restored = optimizer(settings, &other).unwrap();
        restored.restore(&undisturbed.save(), "the test").unwrap();
        let weights = kept
            .entries()
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.copy()))
            .collect();
        other.load(&weights, "the test").unwrap();

        (3..=5).for_each(|t| step(&mut undisturbed, t));
        (3..=5).for_each(|t| step(&mut restored, t));
        let bits = |parameters| {
            values(parameters)
                .into_iter()
                .map(f64::to_bits)
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(&kept), bits(&other), "{settings:?}");
    }
}

#[test]
fn a_step_whose_gradients_overflowed_changes_nothing_and_does_not_count() {
    for settings in [sgd(0.9, true, 0.01), adamw()] {
        let run = |overflows: &[bool]| {
            let weights = parameters(Kind::Float);
            let mut optimizer = optimizer(settings, &weights).unwrap();
            let mut t = 0;
            for overflow in overflows {
                t += usize::from(!overflow);
                optimizer.forget_gradients().unwrap();
                for (which, parameter) in optimizer.parameters.iter().enumerate() {
                    let size = parameter.size();
                    let gradient = wave(which, &size, |i, k| (1.3 * t as f64 + 0.9 * i + k).sin());
                    (parameter * gradient.to_kind(parameter.kind()))
                        .sum(parameter.kind())
                        .backward();
                }
                let found = Tensor::from_slice(&[f32::from(u8::from(*overflow))]);
                optimizer.step(0.1, Some(&found)).unwrap();
                optimizer.note_skipped(usize::from(*overflow));
            }
            values(&weights)
        };
        let without = run(&[false, false, false]);
        assert_eq!(
            run(&[true, false, true, false, false]),
            without,
            "{settings:?}"
        );
    }
}

#[test]
fn each_weight_has_its_own_rate_and_those_that_learn_later_are_not_touched_before() {
    for settings in [sgd(0.9, false, 0.01), adamw()] {
        let weights = || parameters(Kind::Double);
        let (usual, scaled, late, frozen) = (weights(), weights(), weights(), weights());
        let start = values(&usual);
        let run = |weights: &Parameters, rules: [Rule; 2], steps| {
            let mut optimizer = Optimizer::new(settings, weights, &rules, 2).unwrap();
            (1..=steps).for_each(|t| step(&mut optimizer, t));
            values(weights)
        };
        let after_one = run(&usual, [rule(0, 1.0); 2], 1);
        let other = run(&scaled, [rule(0, 1.0), rule(0, 0.25)], 1);
        assert_eq!(after_one[..24], other[..24]);
        let moved = |values: &[f64]| values[24] - start[24];
        assert!((moved(&other) - 0.25 * moved(&after_one)).abs() < 1e-12);
        // From the second epoch of two steps on: untouched by the first two.
        let two = run(&late, [rule(0, 1.0), rule(1, 1.0)], 2);
        assert_eq!(two[24..], start[24..]);
        let never = Rule {
            from_epoch: None,
            lr_scale: 1.0,
        };
        let five = run(&frozen, [rule(0, 1.0), never], 5);
        assert_eq!(five[24..], start[24..]);
        assert_ne!(five[..24], start[..24]);
    }
}

#[test]
fn a_state_of_another_optimizer_is_refused() {
    let parameters = parameters(Kind::Float);
    let saved = optimizer(sgd(0.9, false, 0.0), &parameters).unwrap().save();
    let error = optimizer(adamw(), &parameters)
        .unwrap()
        .restore(&saved, "file x")
        .unwrap_err();
    assert!(
        error
            .message
            .contains("file x has no \"conv.weight.exp_avg\""),
        "{}",
        error.message
    );
}
