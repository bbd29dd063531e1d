//! From the names of other libraries to timm's, which our networks have.
//!
//! Each family is recognised by names that only it has, and its table stands below. Names that are
//! the same everywhere (torchvision's ResNet, DenseNet, Inception v3) stay as they are. Invariant:
//! shapes change only where the table says so, and never the order of numbers.

use std::collections::BTreeSet;

use crate::tensor::{Tensor, Tensors};
use crate::{Result, WeightsError};

/// What wrappers put before the name of what they hold, wherever in the network that is: torch.compile,
/// FSDP, activation checkpointing, Lightning Fabric. No network calls its own parts so.
const WRAPPERS: [&str; 5] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_original_module",
];
/// What stands before every name of a network that is a part of a larger thing: DataParallel and
/// DistributedDataParallel, and the modules of training frameworks.
const HOLDERS: [&str; 2] = ["module", "model"];
/// Blocks of each stage of EfficientNet-B0 and Lite0.
const EFFICIENTNET_STAGES: [usize; 7] = [1, 2, 2, 3, 3, 4, 1];

/// What became of the names.
#[derive(Debug, Default)]
pub struct Renamed {
    /// The zoo's name of the model, where the names tell.
    pub model: Option<&'static str>,
    /// Whose names they were, where they were not timm's.
    pub from: Option<&'static str>,
    /// How many changed.
    pub changed: usize,
    /// What was taken off names, such as `_orig_mod` and `module`.
    pub unwrapped: BTreeSet<&'static str>,
    /// Names that no network of ours has: heads used in training alone, batch counters.
    pub dropped: Vec<String>,
}

/// How one family's names change; None: no network of ours has it.
type Rename = fn(&str) -> Option<String>;

struct Family {
    model: Option<&'static str>,
    from: &'static str,
    /// A tensor that gives the family away.
    has: &'static str,
    // One that only a relative of the family has, whose names are the same otherwise (the next
    // larger size, say).
    and_not: Option<&'static str>,
    rename: Rename,
}

const FAMILIES: &[Family] = &[
    Family {
        model: Some("tf_efficientnet_lite0"),
        from: "efficientnet_lite_pytorch",
        has: "_blocks.0._depthwise_conv.weight",
        and_not: Some("_blocks.0._se_reduce.weight"),
        rename: efficientnet_lite,
    },
    Family {
        model: Some("efficientnet_b0"),
        from: "torchvision",
        has: "features.1.0.block.1.fc1.weight",
        and_not: Some("features.1.1.block.0.0.weight"),
        rename: torchvision_efficientnet,
    },
    Family {
        model: Some("convnext_tiny"),
        from: "torchvision",
        has: "features.1.0.layer_scale",
        and_not: Some("features.5.9.layer_scale"),
        rename: torchvision_convnext,
    },
    Family {
        model: Some("vgg16_bn"),
        from: "torchvision",
        has: "features.41.running_mean",
        and_not: Some("features.44.weight"),
        rename: torchvision_vgg,
    },
    Family {
        model: Some("vgg16"),
        from: "torchvision",
        has: "features.28.weight",
        and_not: Some("features.1.running_mean"),
        rename: torchvision_vgg,
    },
    Family {
        model: Some("densenet121"),
        from: "torchvision",
        has: "features.denseblock4.denselayer16.conv2.weight",
        and_not: Some("features.denseblock4.denselayer17.conv2.weight"),
        rename: densenet,
    },
    Family {
        model: Some("densenet121"),
        from: "torchvision before 0.3",
        has: "features.denseblock4.denselayer16.conv.2.weight",
        and_not: Some("features.denseblock4.denselayer17.conv.2.weight"),
        rename: densenet,
    },
    Family {
        model: Some("inception_v3"),
        from: "torchvision",
        has: "Mixed_7c.branch_pool.conv.weight",
        and_not: None,
        rename: inception_v3,
    },
    Family {
        model: Some("inception_resnet_v2"),
        from: "pretrained-models.pytorch",
        has: "mixed_5b.branch0.conv.weight",
        and_not: Some("classif.weight"),
        rename: |name| Some(name.replacen("last_linear.", "classif.", 1)),
    },
    Family {
        model: Some("legacy_xception"),
        from: "pretrained-models.pytorch",
        has: "block12.rep.1.conv1.weight",
        and_not: Some("fc.weight"),
        rename: |name| Some(name.replacen("last_linear.", "fc.", 1)),
    },
];

/// The tensors under timm's names.
///
/// # Errors
/// [`WeightsError`] when two tensors would get one name, or a shape cannot be what it should.
pub fn to_timm(tensors: Tensors) -> Result<(Tensors, Renamed)> {
    let mut report = Renamed::default();
    let tensors = unwrapped(tensors, &mut report)?;
    let has = |name: &str| tensors.contains_key(name);
    let family = FAMILIES
        .iter()
        .find(|family| has(family.has) && family.and_not.is_none_or(|name| !has(name)));
    report.model = family.and_then(|family| family.model);
    let mut renamed = Tensors::new();
    for (old, tensor) in tensors {
        // Batch-norm of PyTorch counts its batches, and nothing here needs the number.
        let is_counter = old.ends_with(".num_batches_tracked");
        let new = match family {
            _ if is_counter => None,
            Some(family) => (family.rename)(&old),
            None => Some(old.clone()),
        };
        let Some(new) = new else {
            report.dropped.push(old);
            continue;
        };
        let tensor = reshape(&old, &new, tensor)?;
        if new != old {
            report.changed += 1;
            report.from = family.map(|family| family.from);
        }
        if renamed.insert(new.clone(), tensor).is_some() {
            return Err(WeightsError::damaged(format!(
                "two of its tensors would be called {new:?}"
            )));
        }
    }
    Ok((renamed, report))
}

/// The tensors without what wrappers put before their names, in whatever order and mix: a checkpoint of a
/// compiled, parallel network has `module._orig_mod.`, or the other way round, or both beside each other.
fn unwrapped(tensors: Tensors, report: &mut Renamed) -> Result<Tensors> {
    let mut bare = Tensors::new();
    for (old, tensor) in tensors {
        let new = without_wrappers(&old, &mut report.unwrapped);
        if bare.insert(new.clone(), tensor).is_some() {
            return Err(WeightsError::damaged(format!(
                "{old:?} and another of its tensors are both {new:?} without what wrappers put before it; save \
                 the weights of one of the two alone"
            )));
        }
    }
    Ok(bare)
}

fn without_wrappers(name: &str, taken: &mut BTreeSet<&'static str>) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = name.split('.').peekable();
    while let Some(part) = parts.next() {
        // The last part is the tensor itself.
        let is_inside = parts.peek().is_some();
        let holders = if kept.is_empty() { &HOLDERS[..] } else { &[] };
        let mut known = WRAPPERS.iter().chain(holders);
        match known.find(|known| is_inside && **known == part) {
            Some(known) => drop(taken.insert(known)),
            None => kept.push(part),
        }
    }
    kept.join(".")
}

/// VGG's first hidden layers are convolutions in timm, ConvNeXt's layer scale is a vector.
fn reshape(old: &str, new: &str, tensor: Tensor) -> Result<Tensor> {
    let shape: &[usize] = match (new, tensor.shape.as_slice()) {
        // 49 places: the map of 7x7 that this layer looks at (`MAP_SIDE` in the trainer's vgg.rs).
        ("pre_logits.fc1.weight", &[to, from]) if from % 49 == 0 => &[to, from / 49, 7, 7],
        ("pre_logits.fc2.weight", &[to, from]) => &[to, from, 1, 1],
        (name, &[count, 1, 1]) if name.ends_with(".gamma") => &[count],
        _ => return Ok(tensor),
    };
    let shape = shape.to_vec();
    tensor
        .reshaped(&shape)
        .ok_or_else(|| WeightsError::damaged(format!("{old:?} cannot have the shape {shape:?}")))
}

/// The rest of `name` behind `prefix` as (first word, what follows).
fn split<'a>(name: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    name.strip_prefix(prefix)?.split_once('.')
}

/// `"blocks.3.1"` for the seventh block.
fn efficientnet_block(index: usize) -> Option<(usize, usize)> {
    let mut left = index;
    for (stage, depth) in EFFICIENTNET_STAGES.into_iter().enumerate() {
        if left < depth {
            return Some((stage, left));
        }
        left -= depth;
    }
    None
}

fn efficientnet_lite(name: &str) -> Option<String> {
    if let Some((index, rest)) = split(name, "_blocks.") {
        let (stage, block) = efficientnet_block(index.parse().ok()?)?;
        let (layer, field) = rest.split_once('.')?;
        // The first stage does not widen, so its names are one number behind.
        let layer = match (layer, stage) {
            ("_expand_conv", _) => "conv_pw",
            ("_bn0", _) => "bn1",
            ("_depthwise_conv", _) => "conv_dw",
            ("_bn1", 0) => "bn1",
            ("_bn1", _) => "bn2",
            ("_project_conv", 0) => "conv_pw",
            ("_project_conv", _) => "conv_pwl",
            ("_bn2", 0) => "bn2",
            ("_bn2", _) => "bn3",
            _ => return Some(name.to_owned()),
        };
        return Some(format!("blocks.{stage}.{block}.{layer}.{field}"));
    }
    let (layer, field) = name.split_once('.')?;
    let layer = match layer {
        "_conv_stem" => "conv_stem",
        "_bn0" => "bn1",
        "_conv_head" => "conv_head",
        "_bn1" => "bn2",
        "_fc" => "classifier",
        other => other,
    };
    Some(format!("{layer}.{field}"))
}

fn torchvision_efficientnet(name: &str) -> Option<String> {
    let ends = [
        ("features.0.0.", "conv_stem."),
        ("features.0.1.", "bn1."),
        ("features.8.0.", "conv_head."),
        ("features.8.1.", "bn2."),
        ("classifier.1.", "classifier."),
    ];
    if let Some((old, new)) = ends.iter().find(|(old, _)| name.starts_with(old)) {
        return Some(name.replacen(old, new, 1));
    }
    let (stage, rest) = split(name, "features.")?;
    let (block, rest) = rest.split_once('.')?;
    let rest = rest.strip_prefix("block.")?;
    let stage = stage.parse::<usize>().ok()?.checked_sub(1)?;
    let layers: &[(&str, &str)] = if stage == 0 {
        &[
            ("0.0.", "conv_dw."),
            ("0.1.", "bn1."),
            ("1.fc1.", "se.conv_reduce."),
            ("1.fc2.", "se.conv_expand."),
            ("2.0.", "conv_pw."),
            ("2.1.", "bn2."),
        ]
    } else {
        &[
            ("0.0.", "conv_pw."),
            ("0.1.", "bn1."),
            ("1.0.", "conv_dw."),
            ("1.1.", "bn2."),
            ("2.fc1.", "se.conv_reduce."),
            ("2.fc2.", "se.conv_expand."),
            ("3.0.", "conv_pwl."),
            ("3.1.", "bn3."),
        ]
    };
    let (old, new) = layers.iter().find(|(old, _)| rest.starts_with(old))?;
    Some(format!(
        "blocks.{stage}.{block}.{new}{}",
        &rest[old.len()..]
    ))
}

fn torchvision_convnext(name: &str) -> Option<String> {
    let ends = [
        ("features.0.0.", "stem.0."),
        ("features.0.1.", "stem.1."),
        ("classifier.0.", "head.norm."),
        ("classifier.2.", "head.fc."),
    ];
    if let Some((old, new)) = ends.iter().find(|(old, _)| name.starts_with(old)) {
        return Some(name.replacen(old, new, 1));
    }
    // Odd numbers are stages, even ones what makes the picture smaller before the next.
    let (place, rest) = split(name, "features.")?;
    let place: usize = place.parse().ok()?;
    let (block, field) = rest.split_once('.')?;
    if place.is_multiple_of(2) {
        return Some(format!("stages.{}.downsample.{block}.{field}", place / 2));
    }
    let stage = place / 2;
    let layers = [
        ("block.0.", "conv_dw."),
        ("block.2.", "norm."),
        ("block.3.", "mlp.fc1."),
        ("block.5.", "mlp.fc2."),
        ("layer_scale", "gamma"),
    ];
    let (old, new) = layers.iter().find(|(old, _)| field.starts_with(old))?;
    Some(format!(
        "stages.{stage}.blocks.{block}.{new}{}",
        &field[old.len()..]
    ))
}

fn torchvision_vgg(name: &str) -> Option<String> {
    let heads = [
        ("classifier.0.", "pre_logits.fc1."),
        ("classifier.3.", "pre_logits.fc2."),
        ("classifier.6.", "head.fc."),
    ];
    let found = heads.iter().find(|(old, _)| name.starts_with(old));
    Some(found.map_or_else(|| name.to_owned(), |(old, new)| name.replacen(old, new, 1)))
}

/// Before 0.3 torchvision wrote `norm.1` for `norm1`, within dense layers alone.
fn densenet(name: &str) -> Option<String> {
    if !name.contains(".denselayer") {
        return Some(name.to_owned());
    }
    let mut name = name.to_owned();
    for layer in ["norm", "conv"] {
        for number in ["1", "2"] {
            name = name.replace(
                &format!(".{layer}.{number}."),
                &format!(".{layer}{number}."),
            );
        }
    }
    Some(name)
}

/// The auxiliary classifier helps training alone.
fn inception_v3(name: &str) -> Option<String> {
    (!name.starts_with("AuxLogits.")).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Dtype;

    fn tensors(named: &[(&str, &[usize])]) -> Tensors {
        let tensor = |shape: &[usize]| Tensor {
            dtype: Dtype::U8,
            shape: shape.to_vec(),
            bytes: vec![0; shape.iter().product()],
        };
        let pairs = named
            .iter()
            .map(|(name, shape)| ((*name).to_owned(), tensor(shape)));
        pairs.collect()
    }

    fn renamed(named: &[(&str, &[usize])]) -> (Vec<String>, Renamed) {
        let (tensors, report) = to_timm(tensors(named)).unwrap();
        let names = tensors
            .into_iter()
            .map(|(name, t)| format!("{name} {:?}", t.shape));
        (names.collect(), report)
    }

    #[test]
    fn vggs_hidden_layers_become_convolutions() {
        let (names, report) = renamed(&[
            ("features.28.weight", &[1]),
            ("classifier.0.weight", &[4, 98]),
            ("classifier.3.weight", &[4, 4]),
            ("classifier.6.bias", &[5]),
        ]);
        assert_eq!(report.model, Some("vgg16"));
        assert_eq!(
            names,
            [
                "features.28.weight [1]",
                "head.fc.bias [5]",
                "pre_logits.fc1.weight [4, 2, 7, 7]",
                "pre_logits.fc2.weight [4, 4, 1, 1]",
            ]
        );
    }

    #[test]
    fn names_of_the_first_efficientnet_stage_are_one_behind() {
        let (names, report) = renamed(&[
            ("_blocks.0._depthwise_conv.weight", &[1]),
            ("_blocks.0._bn1.bias", &[1]),
            ("_blocks.0._project_conv.weight", &[1]),
            ("_blocks.15._expand_conv.weight", &[1]),
            ("_blocks.15._bn2.weight", &[1]),
            ("_bn1.num_batches_tracked", &[]),
            ("_fc.bias", &[2]),
        ]);
        assert_eq!(report.model, Some("tf_efficientnet_lite0"));
        assert_eq!(report.dropped, ["_bn1.num_batches_tracked"]);
        assert_eq!(
            names,
            [
                "blocks.0.0.bn1.bias [1]",
                "blocks.0.0.conv_dw.weight [1]",
                "blocks.0.0.conv_pw.weight [1]",
                "blocks.6.0.bn3.weight [1]",
                "blocks.6.0.conv_pw.weight [1]",
                "classifier.bias [2]",
            ]
        );
    }

    #[test]
    fn unknown_names_stay_and_what_wrappers_put_before_them_goes_in_any_mix() {
        let (names, report) = renamed(&[
            ("module.a.weight", &[1]),
            ("_orig_mod.b.weight", &[1]),
            ("module._orig_mod.c.weight", &[1]),
            ("_orig_mod.module.d.weight", &[1]),
            ("model.module._orig_mod._forward_module.e.weight", &[1]),
            (
                "f._fsdp_wrapped_module.0._checkpoint_wrapped_module.g",
                &[1],
            ),
            ("loss.weight", &[1]),
            // Parts of a network may be called so themselves, and so may a tensor.
            ("h.model.module.weight", &[1]),
            ("model.model", &[1]),
        ]);
        assert_eq!(
            names,
            [
                "a.weight [1]",
                "b.weight [1]",
                "c.weight [1]",
                "d.weight [1]",
                "e.weight [1]",
                "f.0.g [1]",
                "h.model.module.weight [1]",
                "loss.weight [1]",
                "model [1]",
            ]
        );
        assert_eq!((report.model, report.from, report.changed), (None, None, 0));
        let taken: Vec<_> = report.unwrapped.into_iter().collect();
        assert!(
            taken.contains(&"_orig_mod") && taken.contains(&"module"),
            "{taken:?}"
        );
    }

    #[test]
    fn a_family_is_known_behind_wrappers() {
        let (names, report) = renamed(&[
            ("_orig_mod.module.features.28.weight", &[1]),
            ("_orig_mod.module.classifier.6.bias", &[5]),
        ]);
        assert_eq!(names, ["features.28.weight [1]", "head.fc.bias [5]"]);
        assert_eq!(
            (report.model, report.from),
            (Some("vgg16"), Some("torchvision"))
        );
    }

    #[test]
    fn two_networks_in_one_file_are_not_mixed_up() {
        let two = tensors(&[("model.a.weight", &[1]), ("module.a.weight", &[1])]);
        let error = to_timm(two).unwrap_err().to_string();
        assert!(error.contains("both \"a.weight\""), "{error}");
    }

    #[test]
    fn old_densenets_and_auxiliary_heads() {
        let key = "features.denseblock4.denselayer16.conv.2.weight";
        let (names, _) = renamed(&[(key, &[1]), ("features.norm5.weight", &[1])]);
        assert_eq!(
            names[0],
            "features.denseblock4.denselayer16.conv2.weight [1]"
        );
        let (names, report) = renamed(&[
            ("Mixed_7c.branch_pool.conv.weight", &[1]),
            ("AuxLogits.fc.weight", &[1]),
        ]);
        assert_eq!(names.len(), 1);
        assert_eq!(report.dropped, ["AuxLogits.fc.weight"]);
    }
}
