//! Every model against PyTorch, at small sizes: tests/data/zoo.json holds what timm computed in f64
//! with weights from a formula, which stands here a second time (`xtask/python/zoo_vectors.py small`
//! makes the file). `cargo xtask zoo-check` compares at full size, with random weights and a
//! training step.

use std::collections::BTreeMap;

use marquee_domain::zoo::MODELS;
use serde::Deserialize;
use tch::{Device, Kind, Reduction, Tensor};

use super::{Network, Pass, Rates};
use crate::parameters::Start;
use crate::tensors::Tensors;

const CLASSES: usize = 5;
/// Length of a tensor's table of numbers: a prime, so that rows of a weight start at different places.
const TABLE: usize = 65_521;
/// Of the largest number of a result. Both sides compute in f64, where processors differ by rounding
/// alone; in f32 a number that rounds to the other side of a ReLU's corner moves gradients by far more.
/// (ViT's positions are brought to another size in f32 here as in timm.)
const RELATIVE: f64 = 1e-7;

/// What PyTorch computed for one model: every so many-th number of each result.
#[derive(Debug, Deserialize)]
struct Expected {
    /// Height and width.
    x: [i64; 2],
    x_small: [i64; 2],
    features: Vec<f64>,
    logits: Vec<f64>,
    logits_small: Vec<f64>,
    grad_x: Vec<f64>,
}

/// The finaliser of SplitMix64.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `count` numbers from -1 to below 1 that follow from the name alone, changed by `to`.
fn spread(name: &str, count: usize, to: impl Fn(f64) -> f64) -> Tensor {
    let key = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |key, byte| {
        (key ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let table: Vec<f64> = (0..count.min(TABLE) as u64)
        .map(|index| to((mix(mix(key) ^ index) >> 11) as f64 / 2_f64.powi(52) - 1.0))
        .collect();
    let table = Tensor::from_slice(&table).to_kind(Kind::Float);
    let times = count.div_ceil(TABLE);
    table
        .repeat([i64::try_from(times).unwrap()])
        .narrow(0, 0, i64::try_from(count).unwrap())
}

fn pictures(name: &str, count: i64, [height, width]: [i64; 2]) -> Tensor {
    let numbers = usize::try_from(count * 3 * height * width).unwrap();
    spread(name, numbers, |u| u).view([count, 3, height, width])
}

/// The formula of zoo_vectors.py.
fn weight(name: &str, shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    let ends = |end: &str| name.ends_with(end);
    let (offset, factor) = if ends("running_mean") || ends("bias") {
        (0.0, 0.1)
    } else if ends("running_var") {
        (1.0, 0.5)
    } else if ends("gamma") {
        (0.3, 0.2)
    } else if shape.len() == 1 {
        (1.0, 0.2)
    } else if name == "cls_token" || name == "pos_embed" {
        (0.0, 0.2)
    } else {
        (0.0, (6.0 / (count / shape[0]) as f64).sqrt())
    };
    let count = usize::try_from(count).unwrap();
    spread(name, count, |u| offset + factor * u).view(shape)
}

/// Compares every so many-th number of `found`; what is too far apart, if anything.
fn problem(expected: &[f64], found: &Tensor) -> Option<String> {
    let found = found.contiguous().view([-1]).to_kind(Kind::Double);
    let found = Vec::<f64>::try_from(found).unwrap();
    let step = (found.len() / 24).max(1);
    let sampled: Vec<f64> = found.into_iter().step_by(step).take(24).collect();
    assert_eq!(sampled.len(), expected.len());
    let largest = expected.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
    let tolerance = RELATIVE * largest;
    let apart = sampled.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let apart = apart.fold(0.0, |most: f64, d| if d.is_nan() { d } else { most.max(d) });
    (apart.is_nan() || apart > tolerance)
        .then(|| format!("{apart:.2e} apart, {tolerance:.2e} allowed, {largest:.2e} large"))
}

fn compare(name: &str, expected: &Expected) -> Vec<String> {
    let rates = Rates::default();
    let build = || {
        Network::build(
            name,
            CLASSES,
            Start::Zeros,
            rates,
            Kind::Double,
            Device::Cpu,
        )
    };
    let network = build().unwrap();
    let weights: Tensors = network
        .parameters
        .state()
        .map(|(name, tensor)| {
            (
                name.to_owned(),
                weight(name, &tensor.size()).to_kind(Kind::Double),
            )
        })
        .collect();
    network.parameters.load(&weights, "the formula").unwrap();
    drop(weights);

    let eval = Pass::eval();
    let x = pictures(&format!("x of {name}"), 2, expected.x)
        .to_kind(Kind::Double)
        .set_requires_grad(true);
    let features = network.features(&x, &eval).unwrap();
    let logits = network.classify(&features, &eval).unwrap();
    let target = spread("target", 2 * CLASSES, |u| f64::from(u8::from(u > 0.0)));
    let loss = logits.binary_cross_entropy_with_logits(
        &target.view([2, 5]).to_kind(Kind::Double),
        None::<&Tensor>,
        None::<&Tensor>,
        Reduction::Mean,
    );
    let grad_x = Tensor::run_backward(&[loss], &[&x], false, false).remove(0);
    let x_small = pictures("x_small", 1, expected.x_small).to_kind(Kind::Double);
    let logits_small = tch::no_grad(|| network.logits(&x_small, &eval)).unwrap();
    let results = [
        ("features", &expected.features, features.detach()),
        ("logits", &expected.logits, logits.detach()),
        ("logits_small", &expected.logits_small, logits_small),
        ("grad_x", &expected.grad_x, grad_x),
    ];
    results
        .into_iter()
        .filter_map(|(what, expected_values, found)| {
            let problem = problem(expected_values, &found)?;
            Some(format!("{name}: {what}: {problem}"))
        })
        .collect()
}

#[test]
fn every_model_computes_what_pytorch_does() {
    tch::set_num_threads(1);
    let file = include_str!("../../tests/data/zoo.json");
    let expected: BTreeMap<String, Expected> = serde_json::from_str(file).unwrap();
    let mut listed = MODELS.to_vec();
    listed.sort_unstable();
    assert_eq!(
        expected.keys().collect::<Vec<_>>(),
        listed.iter().collect::<Vec<_>>()
    );
    let problems: Vec<String> = expected
        .iter()
        .flat_map(|(name, expected)| compare(name, expected))
        .collect();
    assert!(problems.is_empty(), "{problems:#?}");
}
