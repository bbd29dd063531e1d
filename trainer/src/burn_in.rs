//! `marquee-trainer burn-in`: whether a device remembers what it is given, and computes what it should.
//!
//! Invariant: nothing that a sound device does is called a fault. What is compared bit by bit is exact on any device and in
//! any order of additions: whole numbers, whose sums stay below what their type holds exactly. The training, which
//! is not, is compared with itself within a tolerance.

use std::time::{Duration, Instant};

use clap::Args;
use marquee_domain::FailureClass;
use marquee_domain::child::{ExitCode, env};
use marquee_domain::spec::Precision;
use tch::{Device, Kind, Reduction, Tensor, no_grad};

use crate::device;
use crate::error::RunError;
use crate::stdout::say;

/// Numbers of one piece of memory, 64 MiB: beside it there must be room for what it is compared with.
const PIECE: i64 = 8 * 1024 * 1024;
/// Bytes of each.
const NUMBER_BYTES: u64 = 8;
/// Pieces that are given back once memory is full: room for comparing and computing.
const ROOM_PIECES: usize = 8;
/// Memory that is filled on a CPU, whose memory is everybody's.
const CPU_MIB: u64 = 256;
/// Rows and columns of the matrices.
const GPU_SIDE: i64 = 4_096;
const CPU_SIDE: i64 = 256;
/// Largest magnitude of their numbers: the largest sum, `side` times its square, is exact in every type used.
const LARGEST: i64 = 4;
/// The same of half precision, where a sum of `HALF_DEPTH` products is exact up to 2,048.
const HALF_LARGEST: i64 = 2;
const HALF_DEPTH: i64 = 256;
/// Steps of the training, its rate, and how far two runs may be apart: they differ in the order of additions at most.
const STEPS: usize = 20;
const RATE: f64 = 0.1;
const APART_MAX: f64 = 1e-3;
const SEED: i64 = 20_270_115;

/// What to test, and for how long.
#[derive(Debug, Args)]
pub struct BurnIn {
    /// For how long products are compared
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_440))]
    minutes: u32,
    /// The same in seconds, for a try
    #[arg(long, conflicts_with = "minutes")]
    seconds: Option<u32>,
    /// Memory that is filled [default: MARQUEE_GPU_MEMORY_MIB, else nearly all that is free]
    #[arg(long)]
    memory_mib: Option<u64>,
    /// The first GPU, or the CPU for a try of the test itself
    #[arg(long, default_value = "cuda", value_parser = ["cpu", "cuda"])]
    device: String,
}

impl BurnIn {
    /// Tests, says how far it is, and gives the exit code.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        match self.test() {
            Ok(line) => {
                say(&line);
                ExitCode::OK
            }
            Err(error) => {
                // The last line is what the worker tells of the end.
                tracing::error!("{}", error.message);
                ExitCode::FAILED
            }
        }
    }

    fn test(&self) -> Result<String, RunError> {
        let device = match self.device.as_str() {
            "cpu" => Device::Cpu,
            _ => device::first_gpu()?,
        };
        device::choose_kernels(device, true, Precision::Fp32)?;
        let limit = self.memory_limit(device);
        let time = match self.seconds {
            Some(seconds) => Duration::from_secs(seconds.into()),
            None => Duration::from_secs(60 * u64::from(self.minutes)),
        };
        let bytes = memory(device, limit)?;
        let mebibytes = bytes / (1024 * 1024);
        say(&format!("memory: {mebibytes} MiB remember four patterns"));
        let arithmetic = Arithmetic::new(device)?;
        let (start, mut rounds) = (Instant::now(), 0_u64);
        let mut said = Instant::now();
        while rounds == 0 || start.elapsed() < time {
            arithmetic.round(rounds)?;
            rounds += 1;
            if said.elapsed() >= Duration::from_secs(60) {
                said = Instant::now();
                say(&format!(
                    "arithmetic: {rounds} rounds of products are right"
                ));
            }
        }
        say(&format!(
            "arithmetic: {rounds} rounds of products are right"
        ));
        training(device)?;
        Ok(format!(
            "passed: {mebibytes} MiB of memory, {rounds} rounds of products and a training of {STEPS} steps"
        ))
    }

    /// Bytes that may be filled; None: as many as there are.
    fn memory_limit(&self, device: Device) -> Option<u64> {
        let told = || std::env::var(env::GPU_MEMORY_MIB).ok()?.parse().ok();
        let limit: Option<u64> = self.memory_mib.or_else(told);
        let limit = match device {
            Device::Cpu => Some(limit.unwrap_or(CPU_MIB).min(CPU_MIB)),
            Device::Cuda(_) | Device::Mps | Device::Vulkan => limit,
        };
        limit.map(|mebibytes| mebibytes.saturating_mul(1024 * 1024))
    }
}

fn fault(message: String) -> RunError {
    RunError::new(FailureClass::DeviceFault, message)
}

/// The number of places in which two tensors differ.
fn differences(found: &Tensor, expected: &Tensor) -> Result<i64, RunError> {
    let apart = found.f_ne_tensor(expected)?.f_sum(Kind::Int64)?;
    Ok(apart.f_int64_value(&[])?)
}

/// A pattern for a piece: each number has its own place in it, so that memory which answers for another address is found.
fn pattern(device: Device, piece: usize, which: usize) -> Result<Tensor, RunError> {
    let options = (Kind::Int64, device);
    // Each bit once set and once not, beside neighbours that are not and are.
    let fixed = |bits: i64| Tensor::f_full([PIECE], bits, options);
    let own = || -> Result<Tensor, tch::TchError> {
        let first = i64::try_from(piece).unwrap_or(0).wrapping_mul(PIECE);
        let places = Tensor::f_arange_start(first, first + PIECE, options)?;
        // An odd factor: no two places have the same number.
        places.f_mul_scalar(6_364_136_223_846_793_005_i64)
    };
    Ok(match which {
        0 => fixed(0x5555_5555_5555_5555)?,
        1 => fixed(!0x5555_5555_5555_5555)?,
        2 => own()?,
        _ => own()?.f_bitwise_not()?,
    })
}

/// Fills memory with patterns and reads them back. Gives the bytes that were filled.
fn memory(device: Device, limit: Option<u64>) -> Result<u64, RunError> {
    let piece_bytes = u64::try_from(PIECE).unwrap_or(0) * NUMBER_BYTES;
    let pieces_max = limit.map_or(usize::MAX, |bytes| {
        usize::try_from(bytes / piece_bytes).unwrap_or(usize::MAX)
    });
    let room = ROOM_PIECES.min(pieces_max / 2);
    let mut pieces: Vec<Tensor> = Vec::new();
    while pieces.len() < pieces_max {
        match Tensor::f_zeros([PIECE], (Kind::Int64, device)) {
            Ok(piece) => pieces.push(piece),
            // Full.
            Err(_) if pieces.len() > ROOM_PIECES => break,
            Err(error) => return Err(error.into()),
        }
    }
    // What is given back stays this process's, which has need of it.
    pieces.truncate(pieces.len().saturating_sub(room).max(1));
    for which in 0..4 {
        for (number, piece) in pieces.iter_mut().enumerate() {
            piece.f_copy_(&pattern(device, number, which)?)?;
        }
        // Only now, with all of it written over since.
        for (number, piece) in pieces.iter().enumerate() {
            check_memory(piece, &pattern(device, number, which)?, number)?;
        }
    }
    Ok(u64::try_from(pieces.len()).unwrap_or(0) * piece_bytes)
}

fn check_memory(found: &Tensor, expected: &Tensor, number: usize) -> Result<(), RunError> {
    match differences(found, expected)? {
        0 => Ok(()),
        wrong => Err(fault(format!(
            "memory does not remember: {wrong} of {PIECE} numbers of piece {number} are not what was written"
        ))),
    }
}

/// Matrices with their product, as the CPU has it.
struct Product {
    left: Tensor,
    right: Tensor,
    expected: Tensor,
}

/// What is multiplied, in each type.
struct Arithmetic {
    products: Vec<Product>,
}

impl Arithmetic {
    fn new(device: Device) -> Result<Self, RunError> {
        tch::manual_seed(SEED);
        let is_cpu = matches!(device, Device::Cpu);
        let side = if is_cpu { CPU_SIDE } else { GPU_SIDE };
        let mut types = vec![(Kind::Float, side, LARGEST), (Kind::Double, side, LARGEST)];
        if !is_cpu {
            // The units that a training in half precision uses.
            types.push((Kind::Half, HALF_DEPTH, HALF_LARGEST));
        }
        let product = |(kind, depth, largest): (Kind, i64, i64)| -> Result<Product, RunError> {
            let draw = |shape: [i64; 2]| {
                let options = (Kind::Double, Device::Cpu);
                Tensor::f_randint_low(-largest, largest + 1, shape, options)
            };
            let (left, right) = (draw([side, depth])?, draw([depth, side])?);
            let expected = left.f_matmul(&right)?;
            let there = |tensor: &Tensor| tensor.f_to_kind(kind)?.f_to_device(device);
            Ok(Product {
                left: there(&left)?,
                right: there(&right)?,
                expected: there(&expected)?,
            })
        };
        let products: Result<Vec<Product>, RunError> = types.into_iter().map(product).collect();
        Ok(Self {
            products: products?,
        })
    }

    /// Multiplies each pair once, with its rows turned by `round`: the rows of the product are then turned alike, and each
    /// round uses other places of the device for the same numbers.
    fn round(&self, round: u64) -> Result<(), RunError> {
        for product in &self.products {
            let rows = product.left.size()[0];
            let turn = i64::try_from(round % u64::try_from(rows).unwrap_or(1)).unwrap_or(0);
            let left = product.left.f_roll([turn], [0])?;
            let found = left.f_matmul(&product.right)?;
            let expected = product.expected.f_roll([turn], [0])?;
            let wrong = differences(&found, &expected)?;
            if wrong > 0 {
                let kind = product.left.kind();
                return Err(fault(format!(
                    "arithmetic is wrong: {wrong} of {} sums of a product of whole numbers in {kind:?} are not the CPU's (round {round})",
                    found.numel()
                )));
            }
        }
        Ok(())
    }
}

/// The same short training twice.
fn training(device: Device) -> Result<(), RunError> {
    let (first, second) = (losses(device)?, losses(device)?);
    check_training(&first, &second)
}

fn check_training(first: &[f64], second: &[f64]) -> Result<(), RunError> {
    let is_number = |losses: &[f64]| losses.iter().all(|loss| loss.is_finite());
    if !is_number(first) || !is_number(second) {
        return Err(fault(
            "the training is wrong: a loss is not a number".to_owned(),
        ));
    }
    let apart = first.iter().zip(second).map(|(a, b)| (a - b).abs());
    let apart = apart.fold(0.0, f64::max);
    if apart > APART_MAX {
        return Err(fault(format!(
            "the training is wrong: the same steps from the same start have losses {apart:.6} apart"
        )));
    }
    match (first.first(), first.last()) {
        (Some(start), Some(end)) if end < start => Ok(()),
        _ => Err(fault(
            "the training is wrong: its loss does not fall".to_owned(),
        )),
    }
}

/// Losses of a small network that learns to tell bright pictures from dark ones.
fn losses(device: Device) -> Result<Vec<f64>, RunError> {
    tch::manual_seed(SEED);
    let options = (Kind::Float, Device::Cpu);
    let targets = Tensor::f_arange(64, (Kind::Int64, Device::Cpu))?.f_remainder(2)?;
    let bright = targets.f_to_kind(Kind::Float)?.f_reshape([64, 1, 1, 1])?;
    let pictures = Tensor::f_randn([64, 3, 32, 32], options)?.f_add(&bright)?;
    let weights = |shape: &[i64], scale: f64| -> Result<Tensor, RunError> {
        let drawn = Tensor::f_randn(shape, options)?.f_mul_scalar(scale)?;
        Ok(drawn.f_to_device(device)?.f_set_requires_grad(true)?)
    };
    let mut parameters = [
        weights(&[16, 3, 3, 3], 0.2)?,
        weights(&[32, 16, 3, 3], 0.1)?,
        weights(&[32, 2], 0.2)?,
    ];
    let (pictures, targets) = (pictures.f_to_device(device)?, targets.f_to_device(device)?);
    let mut losses = Vec::with_capacity(STEPS);
    for _ in 0..STEPS {
        let [first, second, head] = &parameters;
        let hidden = pictures
            .f_conv2d(first, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)?
            .f_relu()?
            .f_conv2d(second, None::<&Tensor>, [2, 2], [1, 1], [1, 1], 1)?
            .f_relu()?;
        let features = hidden.f_mean_dim([2_i64, 3].as_slice(), false, Kind::Float)?;
        let logits = features.f_matmul(head)?.f_log_softmax(-1, Kind::Float)?;
        let loss = logits.f_nll_loss::<Tensor>(&targets, None, Reduction::Mean, -100)?;
        loss.f_backward()?;
        losses.push(loss.f_double_value(&[])?);
        no_grad(|| -> Result<(), RunError> {
            for parameter in &mut parameters {
                let mut gradient = parameter.f_grad()?;
                let step = gradient.f_mul_scalar(RATE)?;
                let _ = parameter.f_sub_(&step)?;
                let _ = gradient.f_zero_()?;
            }
            Ok(())
        })?;
    }
    Ok(losses)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_sound_device_passes() {
        assert_eq!(memory(Device::Cpu, Some(192 * MIB)).unwrap(), 128 * MIB);
        let arithmetic = Arithmetic::new(Device::Cpu).unwrap();
        for round in [0, 1, 255, 256, 1_000_003] {
            arithmetic.round(round).unwrap();
        }
        training(Device::Cpu).unwrap();
    }

    #[test]
    fn one_bit_of_memory_is_found() {
        let mut piece = pattern(Device::Cpu, 3, 2).unwrap();
        let expected = pattern(Device::Cpu, 3, 2).unwrap();
        check_memory(&piece, &expected, 3).unwrap();
        let _ = piece
            .get(77)
            .f_bitwise_xor_tensor_(&Tensor::from(1_i64 << 40))
            .unwrap();
        let error = check_memory(&piece, &expected, 3).unwrap_err();
        assert_eq!(error.class, FailureClass::DeviceFault);
        assert!(
            error.message.contains("1 of 8388608 numbers of piece 3"),
            "{}",
            error.message
        );
        // Another piece's numbers are no piece's own.
        let other = pattern(Device::Cpu, 4, 2).unwrap();
        assert_eq!(differences(&other, &expected).unwrap(), PIECE);
        piece = pattern(Device::Cpu, 3, 0).unwrap();
        assert_eq!(
            differences(&piece, &pattern(Device::Cpu, 3, 1).unwrap()).unwrap(),
            PIECE
        );
    }

    #[test]
    fn one_wrong_sum_is_found_in_whichever_round() {
        let arithmetic = Arithmetic::new(Device::Cpu).unwrap();
        let _ = arithmetic.products[1]
            .expected
            .get(5)
            .get(7)
            .f_add_scalar_(1.0)
            .unwrap();
        for round in [0, 9] {
            let error = arithmetic.round(round).unwrap_err();
            assert_eq!(error.class, FailureClass::DeviceFault);
            assert!(
                error.message.contains("1 of 65536 sums"),
                "{}",
                error.message
            );
        }
    }

    #[test]
    fn a_training_that_is_not_one_is_found() {
        assert!(check_training(&[0.7, 0.5], &[0.7, 0.5]).is_ok());
        for (first, second, why) in [
            ([0.7, f64::NAN], [0.7, 0.5], "not a number"),
            ([0.7, 0.5], [0.7, 0.49], "apart"),
            ([0.7, 0.7], [0.7, 0.7], "does not fall"),
        ] {
            let error = check_training(&first, &second).unwrap_err();
            assert!(error.message.contains(why), "{}", error.message);
        }
    }
}
