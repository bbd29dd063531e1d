//! What holds for every model of the zoo.

use marquee_domain::zoo::{CLASSES, MODELS, ZOO};

use super::*;

fn build(name: &str, classes: usize, start: Start) -> Network {
    Network::build(
        name,
        classes,
        start,
        Rates::default(),
        Kind::Float,
        Device::Cpu,
    )
    .unwrap()
}

fn pictures(count: i64, height: u32, width: u32) -> Tensor {
    Tensor::rand(
        [count, 3, i64::from(height), i64::from(width)],
        (Kind::Float, Device::Cpu),
    )
}

/// One test for what is true of each model, for building them all takes a while.
#[test]
fn the_zoos_table_says_what_each_model_is_and_takes() {
    tch::set_num_threads(1);
    let mut wrong = Vec::new();
    for info in ZOO {
        let network = build(info.name, usize::try_from(CLASSES).unwrap(), Start::Zeros);
        let logits = |height, width| {
            tch::no_grad(|| network.logits(&pictures(1, height, width), &Pass::eval()))
        };
        flops::take();
        assert_eq!(logits(info.side, info.side).unwrap().size(), [1, 1000]);
        let found = (network.parameters.count(), flops::take());
        if found != (info.parameters, info.multiply_adds) {
            wrong.push(format!("{}: {found:?}", info.name));
        }
        let side = info.smallest_side;
        network.check_size(side, side + info.side_step).unwrap();
        if let Err(error) = logits(side, side + info.side_step) {
            wrong.push(format!("{} does not take {side}: {error}", info.name));
        }
        if side > 1 {
            assert!(network.check_size(side, side - 1).is_err());
            if logits(side, side - 1).is_ok() {
                wrong.push(format!("{} takes less than {side}", info.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_seed_means_one_set_of_weights() {
    let weights = |seed| {
        build("simple-cnn", 5, Start::Seed(seed))
            .parameters
            .tensors()
            .remove(0)
    };
    assert!(weights(3).equal(&weights(3)));
    assert!(!weights(3).equal(&weights(4)));
}

#[test]
fn an_unknown_model_is_named_with_the_known_ones() {
    let error = Network::build(
        "resnet9000",
        5,
        Start::Zeros,
        Rates::default(),
        Kind::Float,
        Device::Cpu,
    )
    .unwrap_err();
    assert_eq!(
        error.message,
        format!(
            "there is no model \"resnet9000\"; the models are {}",
            MODELS.join(", ")
        )
    );
}

#[test]
fn a_batch_of_one_picture_learns_and_leaves_the_memory_of_batch_norm_finite() {
    let network = build("resnet18", 5, Start::Seed(1));
    let before: Vec<Tensor> = network
        .parameters
        .buffer_tensors()
        .iter()
        .map(Tensor::copy)
        .collect();
    // 32x32 comes to 1x1 in the last stage: one value a channel.
    let pass = Pass::train(Chance::new(1, 0, 0));
    let loss = network
        .logits(&pictures(1, 32, 32), &pass)
        .unwrap()
        .sum(Kind::Float);
    loss.backward();
    let mut changed = 0;
    for (buffer, before) in network.parameters.buffer_tensors().iter().zip(&before) {
        assert_eq!(buffer.isfinite().all().int64_value(&[]), 1);
        changed += usize::from(!buffer.equal(before));
    }
    assert!(changed > 0 && changed < before.len(), "{changed} changed");
    for (name, weight) in network.parameters.entries() {
        let gradient = weight.grad();
        assert_eq!(gradient.isfinite().all().int64_value(&[]), 1, "{name}");
    }
}
