//! Where the tokens of a batch lie in tensors, as kernels read it.

use std::sync::{Arc, OnceLock};

use burn_cubecl::cubecl::{client::Client, prelude::*, server::Handle};
use burn_cubecl::{CubeDevice, tensor::CubeTensor};

use crate::{TokenMask, host};

/// What kernels read of a [`TokenMask`]: made and sent to the device when it is first used there, and shared by the
/// mask's clones, however many layers use them.
#[derive(Clone, Debug, Default)]
pub(crate) struct CellTable(Arc<OnceLock<Uploaded>>);

/// It follows from the mask, and so plays no part in comparing masks.
impl PartialEq for CellTable {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for CellTable {}

#[derive(Debug)]
struct Uploaded {
    device: CubeDevice,
    /// Columns of each chunk.
    lens: Vec<usize>,
    handle: Handle,
}

impl CellTable {
    /// The table of [`table`] on the device of a tensor.
    pub(super) fn on_device_of(&self, x: &CubeTensor, mask: &TokenMask, lens: &[usize]) -> Handle {
        let upload = |client: &Client| {
            let table = table(mask, lens);
            host::uploaded(size_of_val(table.as_slice()));
            client.create_from_slice(i32::as_bytes(&table))
        };
        let there = self.0.get_or_init(|| Uploaded {
            device: x.device.clone(),
            lens: lens.to_vec(),
            handle: upload(&x.client),
        });
        match there.device == x.device && there.lens == lens {
            true => there.handle.clone(),
            false => upload(&x.client),
        }
    }
}

/// `[batch, 1 + columns]`: of each row of the batch the first column that asks, then for each column where its token
/// lies: row `r` of its chunk's rows as `r` if it is seen; as `−2 − r` if the chunk has a row for it that nobody sees
/// (padding, hidden tokens); `−1` if it has none (padding that is left out).
fn table(mask: &TokenMask, lens: &[usize]) -> Vec<i32> {
    let mut table = Vec::with_capacity(mask.batch() * (1 + mask.columns()));
    let mut unpadded_rows = 0..; // of the oldest chunk, if padding is left out of it
    for row in 0..mask.batch() {
        table.push(mask.first_query(row) as i32);
        let mut columns = mask.row(row).iter().enumerate();
        for (chunk, &len) in lens.iter().enumerate() {
            let is_unpadded = chunk == 0 && mask.unpadded_columns() > 0;
            for (at, (column, &token)) in columns.by_ref().take(len).enumerate() {
                let place = match is_unpadded {
                    false => Some((row * len + at) as i32),
                    true => token.then(|| unpadded_rows.next()).flatten(),
                };
                let seen = token && !mask.is_hidden(row, column);
                table.push(place.map_or(-1, |place| if seen { place } else { -2 - place }));
            }
        }
    }
    table
}
