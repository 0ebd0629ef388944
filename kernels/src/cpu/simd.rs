//! One source, compiled for several instruction sets, the best one chosen when the program runs.
//!
//! A kernel is a plain loop inside `simd!`. The compiler vectorises it once per [`Level`]; the
//! binary therefore needs no `target-cpu` flag to be fast.

use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that kernels are compiled for, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The instructions that every processor of the target has: SSE2 on x86-64, NEON on AArch64.
    Base = 1,
    /// AVX2 with fused multiply-add.
    Avx2 = 2,
    /// AVX-512 as in x86-64-v4.
    Avx512 = 3,
    /// AVX-512 with products of pairs of bf16 (`vdpbf16ps`): Cooper Lake, Sapphire Rapids, Zen 4.
    Avx512Bf16 = 4,
}

/// The level in use; 0 until it is first asked for.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The level that kernels run at: the best this machine has unless [`limit`] lowered it.
#[inline]
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        1 => Level::Base,
        2 => Level::Avx2,
        3 => Level::Avx512,
        4 => Level::Avx512Bf16,
        _ => limit(Level::Avx512Bf16),
    }
}

/// Keeps kernels from using more than `most`, in every thread; returns what they will use.
pub fn limit(most: Level) -> Level {
    let level = detect().min(most);
    LEVEL.store(level as u8, Ordering::Relaxed);
    level
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        Level::Base
    } else if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
    {
        if is_x86_feature_detected!("avx512bf16") { Level::Avx512Bf16 } else { Level::Avx512 }
    } else {
        Level::Avx2
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Base
}

/// Whether [`Level::Base`] multiplies and adds in one instruction.
pub(crate) const BASE_FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// Defines a function whose body is compiled for each [`Level`].
///
/// The name in angle brackets is a constant, true where the level fuses multiply and add: pass it
/// on to [`fma`] and the like, which must not be left to a software routine elsewhere.
macro_rules! simd {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident<$fma:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<const $fma: bool>($($arg: $ty),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) $(-> $result)? { body::<true>($($arg),*) }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $result)? { body::<true>($($arg),*) }

            match $crate::simd::level() {
                // SAFETY: the level is never above what the machine was found to have.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx512 | $crate::simd::Level::Avx512Bf16 => unsafe {
                    avx512($($arg),*)
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                _ => body::<{ $crate::simd::BASE_FMA }>($($arg),*),
            }
        }
    )*};
}
pub(crate) use simd;

/// How many partial results a reduction keeps: two AVX-512 registers, so that the additions of one
/// do not wait for those of the other. The same everywhere, so that every level adds in one order.
pub(crate) const LANES: usize = 32;

/// `a · b + c`.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `eˣ` to about one unit in the last place, for results that are normal numbers; outside, the
/// nearest such result. A NaN stays one.
///
/// `x = k·ln 2 + r` with `|r| ≤ ln 2 / 2`; `eʳ` is the polynomial of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5 · 2²³ leaves the nearest integer in the low bits, without a rounding instruction.
    const SHIFT: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, SHIFT);
    let k = shifted - SHIFT;
    let r = fma::<FMA>(k, -0.693_359_4, x);
    let r = fma::<FMA>(k, 2.121_944_4e-4, r);
    let p = fma::<FMA>(r, 1.987_569_2e-4, 1.398_2e-3);
    let p = fma::<FMA>(p, r, 8.333_452e-3);
    let p = fma::<FMA>(p, r, 4.166_579_6e-2);
    let p = fma::<FMA>(p, r, 1.666_666_5e-1);
    let p = fma::<FMA>(p, r, 0.5);
    let p = fma::<FMA>(p * r, r, r) + 1.0;
    let two_to_k = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    p * two_to_k
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// Adds the lanes of a reduction, halving.
#[inline(always)]
pub(crate) fn fold(lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    // Arrays of their own sizes: of one array that shrinks the compiler makes a shuffle a lane.
    let lanes: [f32; 16] = std::array::from_fn(|i| join(lanes[i], lanes[i + 16]));
    let lanes: [f32; 8] = std::array::from_fn(|i| join(lanes[i], lanes[i + 8]));
    let lanes: [f32; 4] = std::array::from_fn(|i| join(lanes[i], lanes[i + 4]));
    join(join(lanes[0], lanes[2]), join(lanes[1], lanes[3]))
}

/// `Σ f(xᵢ)`.
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            lanes[i] += f(block[i]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    fold(lanes, |a, b| a + b)
}

/// `max xᵢ`, −∞ when there are none.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            lanes[i] = if block[i] > lanes[i] { block[i] } else { lanes[i] };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = if x > *lane { x } else { *lane };
    }
    fold(lanes, |a, b| if b > a { b } else { a })
}

/// `Σ aᵢ · bᵢ`.
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if FMA {
        // SAFETY: levels that fuse multiply and add have these instructions.
        return unsafe { dot_fma(a, b) };
    }
    let mut lanes = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] = fma::<FMA>(a[i], b[i], lanes[i]);
        }
    }
    for (lane, (&a, &b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane = fma::<FMA>(a, b, *lane);
    }
    fold(lanes, |a, b| a + b)
}

/// [`dot`] in the same order, by hand: the compiler keeps the lanes apart and multiplies one by one, or folds
/// them through memory.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx,fma")]
#[inline]
fn dot_fma(a: &[f32], b: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let step = |a: &[f32; LANES], b: &[f32; LANES], lanes: &mut [__m256; 4]| {
        for (i, lanes) in lanes.iter_mut().enumerate() {
            // SAFETY: eight elements from 8 i are inside the arrays.
            let [a, b] = [a, b].map(|x| unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) });
            *lanes = _mm256_fmadd_ps(a, b, *lanes);
        }
    };
    let mut lanes = [_mm256_setzero_ps(); 4];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    a.iter().zip(b).for_each(|(a, b)| step(a, b, &mut lanes));
    let rest = a_rest.len().min(b_rest.len());
    if rest > 0 {
        let [a, b] = [a_rest, b_rest].map(|x| {
            let mut padded = [0.0; LANES];
            padded[..rest].copy_from_slice(&x[..rest]);
            padded
        });
        step(&a, &b, &mut lanes);
    }
    let [a, b, c, d] = lanes;
    let eight = _mm256_add_ps(_mm256_add_ps(a, c), _mm256_add_ps(b, d));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Asks for memory that will soon be read, where the processor has a way to.
#[inline(always)]
pub(crate) fn prefetch(x: &[f32]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in x.chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint that reads nothing; every x86-64 has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = x;
}

/// `yᵢ += a · xᵢ`.
#[inline(always)]
pub(crate) fn axpy<const FMA: bool>(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = fma::<FMA>(a, x, *y);
    }
}
