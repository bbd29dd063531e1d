//! Weights in, classifiers on top, and what of it learns.

use std::collections::BTreeMap;

use marquee_domain::spec::{Activation, HeadSettings, PartialWeights, Transfer};

use super::blueprint::ENSEMBLE;
use super::freeze::Rules;
use super::load::{fill, judge};
use super::*;
use crate::models::{Chance, Network};
use crate::tensors::Tensors;

fn part(name: &str, model: &str, size: Option<(u32, u32)>) -> PartCard {
    PartCard::new(name, find(model).unwrap(), size)
}

fn alone(model: &str, head: HeadSettings) -> Blueprint {
    Blueprint {
        model: model.into(),
        parts: vec![part("", model, None)],
        head,
        rates: Rates::default(),
        script: None,
    }
}

fn two() -> Blueprint {
    Blueprint {
        model: ENSEMBLE.into(),
        parts: vec![
            part("small", "simple-cnn", Some((24, 16))),
            part("wide", "resnet18", None),
        ],
        head: HeadSettings {
            hidden: vec![7],
            dropout: 0.5,
            activation: Activation::Gelu,
        },
        rates: Rates::default(),
        script: None,
    }
}

fn build(blueprint: &Blueprint, classes: usize, seed: u64) -> Learner {
    Learner::build(
        blueprint,
        classes,
        Start::Seed(seed),
        Kind::Float,
        Device::Cpu,
    )
    .unwrap()
}

fn pictures(count: i64) -> Tensor {
    Tensor::randint(256, [count, 40, 48, 3], (Kind::Int64, Device::Cpu)).to_kind(Kind::Uint8)
}

fn state(learner: &Learner) -> Tensors {
    let copy = |(name, tensor): (&str, &Tensor)| (name.to_owned(), tensor.detach().copy());
    learner.parameters.state().map(copy).collect()
}

#[test]
fn a_network_alone_has_the_zoos_names_and_logits() {
    for model in ["simple-cnn", "resnet18", "tf_efficientnet_lite0"] {
        let learner = build(&alone(model, HeadSettings::default()), 5, 3);
        let rates = Rates::default();
        let network =
            Network::build(model, 5, Start::Seed(3), rates, Kind::Float, Device::Cpu).unwrap();
        let names = |parameters: &Parameters| -> Vec<String> {
            parameters
                .state()
                .map(|(name, _)| name.to_owned())
                .collect()
        };
        assert_eq!(names(&learner.parameters), names(&network.parameters));
        let pixels = pictures(2);
        let info = network.info;
        let normaliser = Normaliser::new(info.mean, info.std, Kind::Float, Device::Cpu).unwrap();
        let expected = network
            .logits(&normaliser.apply(&pixels).unwrap(), &Pass::eval())
            .unwrap();
        assert!(
            learner
                .logits(&pixels, Pass::eval())
                .unwrap()
                .equal(&expected)
        );
    }
}

#[test]
fn an_ensemble_puts_features_side_by_side_each_network_with_its_size() {
    let learner = build(&two(), 3, 1);
    let pixels = pictures(2);
    let features = learner.features(&pixels, &Pass::eval()).unwrap();
    let small = &learner.parts[0];
    assert_eq!(features.size()[1], small.backbone.width() + 512);
    let shown = resized(&small.normaliser.apply(&pixels).unwrap(), 24, 16).unwrap();
    assert_eq!(shown.size(), [2, 3, 16, 24]);
    let own = small.backbone.features(&shown, &Pass::eval()).unwrap();
    assert!(
        features
            .narrow(1, 0, small.backbone.width())
            .allclose(&own, 1e-6, 1e-6, false)
    );
    assert_eq!(
        learner.logits(&pixels, Pass::eval()).unwrap().size(),
        [2, 3]
    );
    // Features that were computed before give the same logits.
    let before = learner.logits(&features, Pass::eval()).unwrap();
    assert!(before.equal(&learner.logits(&pixels, Pass::eval()).unwrap()));
    learner.check_size(48, 40).unwrap();
    let mut tiny = two();
    tiny.parts[0].size = Some((7, 16));
    let error = build(&tiny, 3, 1).check_size(48, 40).unwrap_err();
    assert!(
        error.message.contains("backbones.small"),
        "{}",
        error.message
    );
}

fn filled(
    learner: &Learner,
    tensors: &Tensors,
    keeps_head: bool,
) -> marquee_domain::report::WeightsReport {
    fill(
        learner,
        &learner.cards()[0],
        tensors,
        Path::new("w"),
        keeps_head,
    )
    .unwrap()
}

#[test]
fn a_file_of_other_classes_fills_all_but_the_classifier() {
    let published = state(&build(&alone("resnet18", HeadSettings::default()), 10, 1));
    let learner = build(&alone("resnet18", HeadSettings::default()), 4, 2);
    let report = filled(&learner, &published, true);
    assert_eq!(report.loaded, published.len() as u64 - 2);
    assert_eq!(report.head.len(), 2, "{report:?}");
    assert!(report.head[1].contains("[4] instead of [10]"), "{report:?}");
    judge(&report, PartialWeights::Refuse).unwrap();
    let after = state(&learner);
    let is_taken = |name: &String| name.starts_with("fc.") || after[name].equal(&published[name]);
    assert!(published.keys().all(is_taken));
    assert_eq!(after["fc.bias"].size(), [4]);
}

#[test]
fn a_classifier_for_as_many_but_other_classes_is_not_taken() {
    let published = state(&build(&alone("simple-cnn", HeadSettings::default()), 4, 1));
    let learner = build(&alone("simple-cnn", HeadSettings::default()), 4, 2);
    let report = filled(&learner, &published, false);
    assert_eq!(report.head.len(), 2);
    assert!(report.head[0].contains("for other classes"), "{report:?}");
    assert!(!state(&learner)["head.weight"].equal(&published["head.weight"]));
}

#[test]
fn a_partial_load_is_refused_by_name_unless_it_is_allowed() {
    let whole = state(&build(&alone("resnet18", HeadSettings::default()), 4, 1));
    let learner = build(&alone("resnet18", HeadSettings::default()), 4, 2);
    let mut missing = whole.clone_names(&["layer4.1.bn2.running_var"]);
    let report = filled(&learner, &missing, true);
    let message = judge(&report, PartialWeights::Refuse).unwrap_err().message;
    assert!(message.contains("layer4.1.bn2.running_var"), "{message}");
    assert!(message.contains("weights_partial"), "{message}");
    judge(&report, PartialWeights::Allow).unwrap();

    missing = whole.clone_names(&[]);
    missing.insert(
        "layer9.weight".into(),
        Tensor::zeros([1], (Kind::Float, Device::Cpu)),
    );
    let report = filled(&learner, &missing, true);
    assert_eq!(
        report.skipped,
        ["layer9.weight: the network has no such weight"]
    );
    assert!(judge(&report, PartialWeights::Refuse).is_err());

    missing.insert(
        "conv1.weight".into(),
        Tensor::zeros([1], (Kind::Float, Device::Cpu)),
    );
    let report = filled(&learner, &missing, true);
    assert!(
        report
            .skipped
            .iter()
            .any(|line| line.contains("its shape is [1]"))
    );

    let other = state(&build(&alone("simple-cnn", HeadSettings::default()), 4, 1));
    let report = filled(&learner, &other, true);
    let message = judge(&report, PartialWeights::Allow).unwrap_err().message;
    assert!(
        message.contains("none of the network's weights"),
        "{message}"
    );
}

/// A copy without some of the tensors.
trait CloneNames {
    fn clone_names(&self, without: &[&str]) -> Tensors;
}

impl CloneNames for Tensors {
    fn clone_names(&self, without: &[&str]) -> Tensors {
        let kept = self
            .iter()
            .filter(|(name, _)| !without.contains(&name.as_str()));
        kept.map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect()
    }
}

fn transfer(freeze: &[&str], unfreeze: &[(&str, u32)], scale: &[(&str, f64)]) -> Transfer {
    Transfer {
        freeze: freeze.iter().map(|p| (*p).to_owned()).collect(),
        unfreeze: unfreeze
            .iter()
            .map(|(p, e)| ((*p).to_owned(), *e))
            .collect(),
        lr_scale: scale.iter().map(|(p, s)| ((*p).to_owned(), *s)).collect(),
        ..Transfer::default()
    }
}

fn learning(learner: &Learner) -> Vec<&str> {
    let entries = learner.parameters.entries().iter();
    entries
        .filter(|(_, tensor)| tensor.requires_grad())
        .map(|(name, _)| name.as_str())
        .collect()
}

#[test]
fn weights_freeze_and_thaw_by_name_and_epoch() {
    let mut learner = build(&alone("resnet18", HeadSettings::default()), 4, 1);
    let settings = transfer(
        &["@backbone"],
        &[("layer4.*", 3)],
        &[("layer4.*", 0.5), ("layer4.1.*", 0.1)],
    );
    let rules = Rules::new(&settings, &learner).unwrap();
    assert!(rules.change_with_time());
    assert!(rules.apply(&mut learner, 0).unwrap());
    assert_eq!(learning(&learner), ["fc.weight", "fc.bias"]);
    assert!(learner.has_frozen_features());
    assert!(!rules.apply(&mut learner, 1).unwrap());
    assert!(rules.apply(&mut learner, 2).unwrap());
    assert!(learning(&learner).contains(&"layer4.0.conv1.weight"));
    assert!(!learning(&learner).contains(&"layer3.0.conv1.weight"));
    assert!(!learner.has_frozen_features());
    let names = learner
        .parameters
        .entries()
        .iter()
        .map(|(name, _)| name.as_str());
    let scale: BTreeMap<&str, f64> = names
        .zip(rules.of_weights().iter().map(|rule| rule.lr_scale))
        .collect();
    assert_eq!(scale["layer4.0.conv1.weight"].to_bits(), 0.5_f64.to_bits());
    assert_eq!(scale["layer4.1.conv1.weight"].to_bits(), 0.1_f64.to_bits());
    assert_eq!(scale["fc.bias"].to_bits(), 1.0_f64.to_bits());
}

#[test]
fn a_pattern_without_a_weight_is_an_error_and_so_is_nothing_to_learn() {
    let learner = build(&alone("resnet18", HeadSettings::default()), 4, 1);
    for settings in [
        transfer(&["layer9.*"], &[], &[]),
        transfer(&[], &[("layer9.*", 2)], &[]),
        transfer(&[], &[], &[("layer9.*", 0.1)]),
    ] {
        let message = Rules::new(&settings, &learner).unwrap_err().message;
        assert!(message.contains("\"layer9.*\""), "{message}");
    }
    let all = Rules::new(&transfer(&["*"], &[], &[]), &learner).unwrap_err();
    assert!(all.message.contains("nothing to learn"), "{}", all.message);
}

#[test]
fn a_frozen_network_changes_in_no_way_while_the_rest_learns() {
    let mut learner = build(&two(), 3, 1);
    let rules = Rules::new(&transfer(&["wide.*"], &[], &[]), &learner).unwrap();
    rules.apply(&mut learner, 0).unwrap();
    let before = state(&learner);
    let logits = learner
        .logits(&pictures(4), Pass::train(Chance::new(1, 0, 0)))
        .unwrap();
    logits.sum(Kind::Float).backward();
    let after = state(&learner);
    let frozen = before.keys().filter(|name| name.starts_with("wide."));
    for name in frozen {
        assert!(before[name].equal(&after[name]), "{name}");
    }
    for (name, tensor) in learner.parameters.entries() {
        assert_eq!(
            tensor.grad().defined(),
            !name.starts_with("wide."),
            "{name}"
        );
    }
}

#[test]
fn frozen_norms_go_by_what_they_remember() {
    let mut learner = build(&alone("resnet18", HeadSettings::default()), 3, 1);
    learner.freeze_norms();
    let before = state(&learner);
    let _ = learner
        .logits(&pictures(4), Pass::train(Chance::new(1, 0, 0)))
        .unwrap();
    let after = state(&learner);
    assert!(before.keys().all(|name| before[name].equal(&after[name])));
}
