//! Layers with weights, as PyTorch defines them, under the names that files know.
//!
//! Invariants: padding, epsilon and momentum are written where a layer is made, never taken from a
//! default of tch; only the fallible calls of tch are used, for the plain ones panic.

use tch::{TchError, Tensor};

use super::pass::Pass;
use crate::error::RunError;
use crate::parameters::{Init, Scope};

/// A convolution to make: `Conv::of(64, 128, [3, 3]).stride(2).padding([1, 1])`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvShape {
    from: i64,
    to: i64,
    kernel: [i64; 2],
    stride: i64,
    padding: Padding,
    groups: i64,
    bias: bool,
    init: ConvInit,
}

/// Rows and columns of zeros around the picture.
#[derive(Debug, Clone, Copy)]
enum Padding {
    /// So many on either side, vertically and horizontally.
    Fixed([i64; 2]),
    /// As TensorFlow's "same": what makes the output `ceil(size / stride)`, the odd one at the end.
    LikeTensorFlow,
}

/// How the weights of a convolution start.
#[derive(Debug, Clone, Copy)]
enum ConvInit {
    /// Normal, spread by what the layer gives to (He et al. 2015, "fan out").
    HeOut,
    /// Evenly, spread by what the layer takes from: values are as large behind a ReLU as before the
    /// layer.
    HeIn,
    /// The same, normal ("fan in").
    HeInNormal,
    /// Normal with this spread.
    Normal(f64),
    /// As PyTorch's own layers start.
    Torch,
}

impl ConvShape {
    pub(super) const fn stride(mut self, stride: i64) -> Self {
        self.stride = stride;
        self
    }

    /// Zeros above and below, left and right.
    pub(super) const fn padding(mut self, padding: [i64; 2]) -> Self {
        self.padding = Padding::Fixed(padding);
        self
    }

    pub(super) const fn padding_like_tensorflow(mut self) -> Self {
        self.padding = Padding::LikeTensorFlow;
        self
    }

    /// Each channel by itself.
    pub(super) const fn depthwise(mut self) -> Self {
        self.groups = self.from;
        self
    }

    pub(super) const fn with_bias(mut self) -> Self {
        self.bias = true;
        self
    }

    pub(super) const fn he_in(mut self) -> Self {
        self.init = ConvInit::HeIn;
        self
    }

    pub(super) const fn he_in_normal(mut self) -> Self {
        self.init = ConvInit::HeInNormal;
        self
    }

    pub(super) const fn normal(mut self, std: f64) -> Self {
        self.init = ConvInit::Normal(std);
        self
    }

    pub(super) const fn torch_init(mut self) -> Self {
        self.init = ConvInit::Torch;
        self
    }

    fn weight_init(&self) -> Init {
        let area = self.kernel[0] * self.kernel[1];
        // Of one group alone: an output takes from no other.
        let fan_in = (self.from / self.groups * area) as f64;
        let fan_out = (self.to / self.groups * area) as f64;
        match self.init {
            ConvInit::HeOut => Init::Normal {
                std: (2.0 / fan_out).sqrt(),
            },
            ConvInit::HeIn => Init::Uniform {
                bound: (6.0 / fan_in).sqrt(),
            },
            ConvInit::HeInNormal => Init::Normal {
                std: (2.0 / fan_in).sqrt(),
            },
            ConvInit::Normal(std) => Init::Normal { std },
            ConvInit::Torch => Init::Uniform {
                bound: 1.0 / fan_in.sqrt(),
            },
        }
    }
}

/// A convolution over pictures, `[N, C, H, W]`.
#[derive(Debug)]
pub(super) struct Conv {
    weight: Tensor,
    bias: Option<Tensor>,
    shape: ConvShape,
}

impl Conv {
    /// From `from` to `to` channels with a kernel of so many rows and columns; without stride,
    /// padding, groups and bias until they are asked for.
    pub(super) const fn of(from: i64, to: i64, kernel: [i64; 2]) -> ConvShape {
        ConvShape {
            from,
            to,
            kernel,
            stride: 1,
            padding: Padding::Fixed([0, 0]),
            groups: 1,
            bias: false,
            init: ConvInit::HeOut,
        }
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let ConvShape { stride, groups, .. } = self.shape;
        let (padded, padding) = match self.shape.padding {
            Padding::Fixed(padding) => (x.shallow_clone(), padding),
            Padding::LikeTensorFlow => (self.pad_like_tensorflow(x)?, [0, 0]),
        };
        let covers_all = padded.size().get(2..) == self.weight.size().get(2..);
        let y = if covers_all && padding == [0, 0] && groups == 1 {
            self.product(&padded)?
        } else {
            padded.f_conv2d(
                &self.weight,
                self.bias.as_ref(),
                [stride, stride],
                padding,
                [1, 1],
                groups,
            )?
        };
        #[cfg(test)]
        super::flops::count(y.numel() * self.weight.numel(), self.weight.size()[0]);
        Ok(y)
    }

    /// The same where the kernel is as large as the picture. It is then a product of two matrices, which
    /// libtorch computes much faster than such a convolution. Both have the same layout, so none is copied.
    fn product(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let flat = |tensor: &Tensor| -> Result<Tensor, TchError> {
            if self.weight.is_contiguous() {
                tensor.f_flatten(1, -1)
            } else {
                tensor.f_permute([0, 2, 3, 1])?.f_flatten(1, -1)
            }
        };
        flat(x)?
            .f_linear(&flat(&self.weight)?, self.bias.as_ref())?
            .f_unsqueeze(-1)?
            .f_unsqueeze(-1)
    }

    fn pad_like_tensorflow(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (_, _, height, width) = x.size4()?;
        let missing = |size: i64, kernel: i64| {
            let stride = self.shape.stride;
            let steps = (size + stride - 1) / stride;
            ((steps - 1) * stride + kernel - size).max(0)
        };
        let rows = missing(height, self.shape.kernel[0]);
        let columns = missing(width, self.shape.kernel[1]);
        if rows == 0 && columns == 0 {
            return Ok(x.shallow_clone());
        }
        // libtorch pads from the last dimension on: columns before rows.
        let sides = [
            columns / 2,
            columns - columns / 2,
            rows / 2,
            rows - rows / 2,
        ];
        x.f_constant_pad_nd(sides)
    }
}

/// A fully connected layer, `[.., from]` to `[.., to]`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        #[cfg(test)]
        super::flops::count(x.numel() * self.weight.numel(), self.weight.size()[1]);
        x.f_linear(&self.weight, Some(&self.bias))
    }
}

/// Normalisation of each channel, by the batch while learning and by what was seen while scoring
/// (Ioffe and Szegedy 2015).
///
/// While learning, the variance of a batch needs at least two values a channel. A last batch of one
/// picture has only one at the end of a deep network; there this layer uses its statistics, as when
/// scoring.
#[derive(Debug)]
pub(super) struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: f64,
}

impl BatchNorm {
    /// Share of the batch in what is remembered. All models of the zoo have PyTorch's.
    const MOMENTUM: f64 = 0.1;

    pub(super) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let values_per_channel = x.numel() / self.weight.numel();
        let learns = pass.norms_learn() && values_per_channel > 1;
        x.f_batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.mean),
            Some(&self.var),
            learns,
            Self::MOMENTUM,
            self.eps,
            true,
        )
    }
}

/// Normalisation over the last dimension (Ba et al. 2016).
#[derive(Debug)]
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Over the last dimension.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_layer_norm(
            self.weight.size(),
            Some(&self.weight),
            Some(&self.bias),
            self.eps,
            true,
        )
    }

    /// Over the channels of `[N, C, H, W]`.
    pub(super) fn over_channels(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.forward(&x.f_permute([0, 2, 3, 1])?)?
            .f_permute([0, 3, 1, 2])
    }
}

impl Scope<'_> {
    pub(super) fn conv(&mut self, name: &str, shape: ConvShape) -> Result<Conv, RunError> {
        let mut at = self.at(name);
        let sides = [
            shape.to,
            shape.from / shape.groups,
            shape.kernel[0],
            shape.kernel[1],
        ];
        let weight = at.weight("weight", &sides, shape.weight_init())?;
        let bias_init = match shape.init {
            ConvInit::Torch => shape.weight_init(),
            ConvInit::HeOut | ConvInit::HeIn | ConvInit::HeInNormal | ConvInit::Normal(_) => {
                Init::Constant(0.0)
            }
        };
        let bias = if shape.bias {
            Some(at.weight("bias", &[shape.to], bias_init)?)
        } else {
            None
        };
        Ok(Conv {
            weight,
            bias,
            shape,
        })
    }

    /// A fully connected layer that starts as PyTorch's do.
    pub(crate) fn linear(&mut self, name: &str, from: i64, to: i64) -> Result<Linear, RunError> {
        let bound = 1.0 / (from as f64).sqrt();
        let init = Init::Uniform { bound };
        self.linear_from(name, [from, to], init, init)
    }

    /// A fully connected layer whose weights start normally with the spread `std`, its bias at 0.
    pub(super) fn linear_normal(
        &mut self,
        name: &str,
        [from, to]: [i64; 2],
        std: f64,
    ) -> Result<Linear, RunError> {
        self.linear_from(name, [from, to], Init::Normal { std }, Init::Constant(0.0))
    }

    fn linear_from(
        &mut self,
        name: &str,
        [from, to]: [i64; 2],
        weight: Init,
        bias: Init,
    ) -> Result<Linear, RunError> {
        let mut at = self.at(name);
        Ok(Linear {
            weight: at.weight("weight", &[to, from], weight)?,
            bias: at.weight("bias", &[to], bias)?,
        })
    }

    pub(super) fn batch_norm(
        &mut self,
        name: &str,
        channels: i64,
        eps: f64,
    ) -> Result<BatchNorm, RunError> {
        self.batch_norm_from(name, channels, eps, 1.0)
    }

    /// A batch-norm at the end of a residual branch: it starts at 0, so that the block starts as if
    /// it were not there (Goyal et al. 2017).
    pub(super) fn last_batch_norm(
        &mut self,
        name: &str,
        channels: i64,
        eps: f64,
    ) -> Result<BatchNorm, RunError> {
        self.batch_norm_from(name, channels, eps, 0.0)
    }

    fn batch_norm_from(
        &mut self,
        name: &str,
        channels: i64,
        eps: f64,
        weight: f64,
    ) -> Result<BatchNorm, RunError> {
        let mut at = self.at(name);
        Ok(BatchNorm {
            weight: at.weight("weight", &[channels], Init::Constant(weight))?,
            bias: at.weight("bias", &[channels], Init::Constant(0.0))?,
            mean: at.buffer("running_mean", &[channels], 0.0)?,
            var: at.buffer("running_var", &[channels], 1.0)?,
            eps,
        })
    }

    pub(super) fn layer_norm(
        &mut self,
        name: &str,
        channels: i64,
        eps: f64,
    ) -> Result<LayerNorm, RunError> {
        let mut at = self.at(name);
        Ok(LayerNorm {
            weight: at.weight("weight", &[channels], Init::Constant(1.0))?,
            bias: at.weight("bias", &[channels], Init::Constant(0.0))?,
            eps,
        })
    }
}
