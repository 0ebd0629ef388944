//! What crosses between the host and a device, counted: each crossing waits, or makes others wait.

use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::{
    Element, Tensor, TensorCreationOptions, TensorData, TensorReadError, kind::Basic,
};

/// How often and how much crossed since the program began, whoever asked for it; on the CPU, what would have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Tensors that were read back.
    pub reads: u64,
    /// Bytes of these.
    pub bytes_read: u64,
    /// Tensors that were made of the host's numbers.
    pub uploads: u64,
    /// Bytes of these.
    pub bytes_uploaded: u64,
    /// Kernels that were launched on GPUs, if [`count_launches`] was called.
    pub launches: u64,
}

impl Traffic {
    /// What crossed until now.
    pub fn so_far() -> Self {
        let count = |counter: &Counter| {
            [&counter.times, &counter.bytes].map(|count| count.load(Ordering::Relaxed))
        };
        let ([reads, bytes_read], [uploads, bytes_uploaded]) = (count(&READS), count(&UPLOADS));
        let launches = LAUNCHES.load(Ordering::Relaxed);
        Self { reads, bytes_read, uploads, bytes_uploaded, launches }
    }

    /// What crossed since then.
    pub fn since(self, then: Self) -> Self {
        Self {
            reads: self.reads - then.reads,
            bytes_read: self.bytes_read - then.bytes_read,
            uploads: self.uploads - then.uploads,
            bytes_uploaded: self.bytes_uploaded - then.bytes_uploaded,
            launches: self.launches - then.launches,
        }
    }
}

/// A tensor of the host's numbers, as [`Tensor::from_data`] makes it.
pub fn upload<const D: usize, K: Basic>(
    data: impl Into<TensorData>,
    options: impl Into<TensorCreationOptions>,
) -> Tensor<D, K> {
    let data = data.into();
    uploaded(data.as_bytes().len());
    Tensor::from_data(data, options)
}

/// Counts an upload that was made another way.
pub(crate) fn uploaded(bytes: usize) {
    UPLOADS.add(bytes);
}

/// The values of a tensor, the last dimension's side by side, converted to `E`.
///
/// # Errors
/// If the device failed.
pub fn read<E: Element, const D: usize, K: Basic>(
    tensor: Tensor<D, K>,
) -> Result<Vec<E>, TensorReadError> {
    READS.add(tensor.shape().num_elements() * tensor.dtype().size());
    tensor.try_into_vec_as::<E>()
}

/// The values of a tensor in its own type.
///
/// # Panics
/// If the device failed.
pub fn data<const D: usize, K: Basic>(tensor: Tensor<D, K>) -> TensorData {
    READS.add(tensor.shape().num_elements() * tensor.dtype().size());
    tensor.into_data()
}

struct Counter {
    times: AtomicU64,
    bytes: AtomicU64,
}

impl Counter {
    const fn new() -> Self {
        Self { times: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    fn add(&self, bytes: usize) {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

static READS: Counter = Counter::new();
static UPLOADS: Counter = Counter::new();
static LAUNCHES: AtomicU64 = AtomicU64::new(0);

/// Counts kernels launched on GPUs from now on; false if this build has none.
pub fn count_launches() -> bool {
    #[cfg(feature = "gpu")]
    {
        use std::sync::{Arc, OnceLock};

        use burn_cubecl::cubecl::logging::{LaunchObservation, LaunchObserver};

        struct Count;

        impl LaunchObserver for Count {
            fn launched(&self, _kernel: &'static str) {
                LAUNCHES.fetch_add(1, Ordering::Relaxed);
            }
        }

        static WATCHING: OnceLock<LaunchObservation> = OnceLock::new();
        WATCHING.get_or_init(|| LaunchObservation::new(Arc::new(Count)));
    }
    cfg!(feature = "gpu")
}
