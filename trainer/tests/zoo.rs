//! Networks of the zoo in whole runs: batch-norm over ranks, sizes, and `check-model`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use crate::common::{CLASSES, Run, settings, trainer, write_shards};
use marquee_domain::FailureClass;
use marquee_domain::spec::{LrSchedule, Optimizer, TrainSettings};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

fn lite() -> TrainSettings {
    TrainSettings {
        model: "efficientnet_lite0".into(),
        batch_size: 16,
        lr_schedule: LrSchedule::Constant,
        dropout: 0.2,
        drop_path: 0.2,
        // At the end of the network a picture is one pixel: norms over so few values overflow at a
        // high rate.
        optimizer: Optimizer::Sgd {
            lr: 1e-3,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 0.0,
        },
        ..settings()
    }
}

/// Three steps an epoch. In the last one rank 0 has a single picture, which comes to one value a
/// channel at the end of the network, and rank 1 has none.
#[test]
fn batch_norm_over_two_ranks_goes_on_exactly_with_one_picture_and_with_none() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), [33, 6, 0]);
    let undisturbed = Run::train(folder.path(), lite());
    undisturbed.succeed(2);

    let first = Run::train(
        folder.path(),
        TrainSettings {
            max_steps: Some(4),
            ..lite()
        },
    );
    let events = first.succeed(2);
    let (step, checkpoint) = events
        .iter()
        .rev()
        .find_map(crate::common::checkpoint_in)
        .unwrap();
    assert_eq!(step, 4);
    let resumed = Run::train(folder.path(), lite()).resuming(checkpoint);
    resumed.succeed(2);
    assert!(
        undisturbed.model_bytes() == resumed.model_bytes(),
        "weights or statistics differ"
    );

    let bytes = undisturbed.model_bytes();
    let model = SafeTensors::deserialize(&bytes).unwrap();
    let memory = model.tensor("bn2.running_var").unwrap();
    let values: Vec<f32> = memory
        .data()
        .chunks_exact(4)
        .map(|cell| f32::from_le_bytes(cell.try_into().unwrap()))
        .collect();
    assert!(values.iter().all(|v| v.is_finite() && *v > 0.0));
    assert!(values.iter().any(|v| (*v - 1.0).abs() > 1e-3), "it learnt");
    let card: serde_json::Value =
        serde_json::from_slice(&std::fs::read(undisturbed.output("model.json")).unwrap()).unwrap();
    assert_eq!(card["mean"], serde_json::json!([0.485, 0.456, 0.406]));
}

#[test]
fn pictures_that_a_model_cannot_take_are_refused_before_training() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), [9, 2, 0]);
    for (model, words) in [
        ("vit_small_patch16_224", "multiples of 16, not 16x24"),
        ("inception_v3", "75x75 pixels or more, not 16x24"),
    ] {
        let run = Run::train(
            folder.path(),
            TrainSettings {
                model: model.into(),
                ..settings()
            },
        );
        let (class, message) = run.start(1).ranks[0].fail();
        assert_eq!(class, FailureClass::UserError);
        assert!(message.contains(words), "{message}");
    }
}

type Floats = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn floats(path: &Path) -> Floats {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

fn write(path: &Path, tensors: &Floats) {
    let views = tensors.iter().map(|(name, (shape, data))| {
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), data).unwrap(),
        )
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn zeros(shape: &[usize]) -> (Vec<usize>, Vec<u8>) {
    (shape.to_vec(), vec![0; shape.iter().product::<usize>() * 4])
}

#[test]
fn check_model_names_what_is_missing_or_unused_and_exits_by_the_tolerance() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), [9, 2, 0]);
    let training = Run::train(folder.path(), settings());
    training.succeed(1);
    let weights = floats(&training.output("model.safetensors"));
    let io = Floats::from([
        ("x".to_owned(), zeros(&[2, 3, 16, 16])),
        ("logits".to_owned(), zeros(&[2, CLASSES.len()])),
    ]);
    let (weights_path, io_path) = (folder.path().join("w"), folder.path().join("io"));
    let check = |weights: &Floats, io: &Floats, tolerance: &str| -> Output {
        write(&weights_path, weights);
        write(&io_path, io);
        trainer()
            .arg("check-model")
            .arg("simple-cnn")
            .args([&weights_path, &io_path])
            .args(["--tolerance", tolerance])
            .output()
            .unwrap()
    };
    let json =
        |output: &Output| -> serde_json::Value { serde_json::from_slice(&output.stdout).unwrap() };

    let far = check(&weights, &io, "1e-9");
    assert_eq!(far.status.code(), Some(1));
    assert!(json(&far)["logits"].as_f64().unwrap() > 1e-9);
    assert_eq!(json(&far)["classes"], CLASSES.len());
    let near = check(&weights, &io, "1000");
    assert_eq!(near.status.code(), Some(0), "{near:?}");

    let refused = |weights: &Floats, io: &Floats, words: &str| {
        let output = check(weights, io, "1000");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{said}");
    };
    let mut fewer = weights.clone();
    fewer.remove("convs.1.bias");
    refused(&fewer, &io, "convs.1.bias");
    let mut headless = weights.clone();
    headless.remove("head.weight");
    refused(&headless, &io, "head.weight");
    let mut more = weights.clone();
    more.insert("convs.9.weight".to_owned(), zeros(&[1]));
    refused(&more, &io, "convs.9.weight");
    let mut counted = weights.clone();
    counted.insert("bn.num_batches_tracked".to_owned(), zeros(&[1]));
    assert_eq!(check(&counted, &io, "1000").status.code(), Some(0));
    let mut no_x = io.clone();
    no_x.remove("x");
    refused(&weights, &no_x, "has no tensor \"x\"");
    let mut nothing = io.clone();
    nothing.remove("logits");
    refused(&weights, &nothing, "nothing to compare");
    let mut small = io.clone();
    small.insert("x".to_owned(), zeros(&[2, 3, 7, 16]));
    refused(&weights, &small, "8x8 pixels or more");
}
