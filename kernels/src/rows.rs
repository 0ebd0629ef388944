//! Numbers of rows to be picked.

use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, Int, Tensor};

use crate::host;

/// The numbers of some rows of a tensor, in the order in which they are picked. Cloning is cheap.
///
/// They are kept on the host, where they are made; a device other than the CPU is given them once, when they are first
/// used there, however many layers use them.
#[derive(Clone, Debug)]
pub struct RowNumbers {
    numbers: Arc<[u32]>,
    on_device: Arc<OnceLock<Tensor<1, Int>>>,
}

impl RowNumbers {
    /// How many rows are picked.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether no row is picked.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The numbers on the host.
    pub fn as_slice(&self) -> &[u32] {
        &self.numbers
    }

    /// The numbers on a device.
    pub(crate) fn tensor(&self, device: &Device) -> Tensor<1, Int> {
        let upload = || {
            let numbers: Vec<i32> = self.numbers.iter().map(|&row| row as i32).collect();
            host::upload(numbers.as_slice(), device)
        };
        let there = self.on_device.get_or_init(upload);
        if there.device() == *device { there.clone() } else { upload() }
    }
}

impl From<Vec<u32>> for RowNumbers {
    fn from(numbers: Vec<u32>) -> Self {
        Self { numbers: numbers.into(), on_device: Arc::default() }
    }
}

impl FromIterator<u32> for RowNumbers {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        Vec::from_iter(numbers).into()
    }
}
