//! A state dict, from a file of `torch.save` or of safetensors: names, shapes, and elements one tensor at a time.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use safetensors::Dtype;

use super::{
    archive::{self, Archive, Entry},
    pickle::{Pickle, Ref, Value},
};
use crate::{
    Error, Result,
    model::tensors::{ModelFiles, Place, TensorFile, read_floats},
};

/// The names under which the published programs, and Hugging Face's trainer, leave a state dict in a folder.
const IN_FOLDERS: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "model.pt",
    "checkpoint_final",
];

/// Tensors by name, whatever file holds them.
#[derive(Debug)]
pub struct StateDict {
    /// The file.
    pub path: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Torch(TorchFile),
    Safetensors(TensorFile),
    Shards(ModelFiles),
}

impl StateDict {
    /// Opens a file, or the one that a folder holds.
    ///
    /// # Errors
    /// A folder without such a file, a file that is neither of the two, and all that its reader refuses.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let found = IN_FOLDERS.iter().find(|name| path.join(name).is_file());
            return match found {
                Some(name) if name.contains("safetensors") => {
                    let files = ModelFiles::open(path)?;
                    Ok(Self { path: files.path.clone(), source: Source::Shards(files) })
                }
                Some(name) => Self::open(&path.join(name)),
                None => {
                    let names = IN_FOLDERS.join("`, `");
                    let problem =
                        format!("holds none of `{names}`. Give the path of the file itself.");
                    Err(Error::input(path, "", problem))
                }
            };
        }
        let mut beginning = Vec::new();
        File::open(path)
            .and_then(|file| file.take(16).read_to_end(&mut beginning))
            .map_err(Error::io("read", path))?;
        let source = match beginning.as_slice() {
            bytes if archive::is_archive(bytes) => Source::Torch(TorchFile::open(path)?),
            // A header of safetensors is JSON.
            [_, _, _, _, _, _, _, _, b'{', ..] => Source::Safetensors(TensorFile::open(path)?),
            // The number that the format before torch 1.6 begins with.
            bytes
                if bytes
                    .starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") =>
            {
                let problem = "is in the format that torch wrote before its version 1.6. Load it with `torch.load(FILE, weights_only=True)` and save it again with `torch.save`.";
                return Err(Error::input(path, "", problem));
            }
            _ => {
                let problem = "is neither an archive of `torch.save` nor a safetensors file. If it was copied, copy it again; a plain pickle is not read.";
                return Err(Error::input(path, "", problem));
            }
        };
        Ok(Self { path: path.to_owned(), source })
    }

    /// Names and shapes.
    pub fn shapes(&self) -> Vec<(&str, &[usize])> {
        match &self.source {
            Source::Torch(file) => file.shapes().collect(),
            Source::Safetensors(file) => file.shapes().collect(),
            Source::Shards(files) => files.shapes().collect(),
        }
    }

    /// A tensor's shape, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.shapes().into_iter().find(|(other, _)| *other == name).map(|(_, shape)| shape)
    }

    /// A tensor's elements as f32, row-major.
    ///
    /// # Errors
    /// A name that is not there, a type that is not floating point, and elements that are not finite.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        match &self.source {
            Source::Torch(file) => file.read(name),
            Source::Safetensors(file) => file.read(name),
            Source::Shards(files) => files.read(name),
        }
    }
}

/// A file that `torch.save` wrote: an archive with a pickle, and a file of elements for each storage.
#[derive(Debug)]
struct TorchFile {
    path: PathBuf,
    archive: Archive,
    tensors: BTreeMap<String, View>,
}

/// A tensor: where its elements lie in the archive. All lie within it, and it has no more than its storage.
#[derive(Clone, Debug, PartialEq, Eq)]
struct View {
    element: Dtype,
    /// The first element's byte in the archive.
    start: u64,
    /// From the first element to the one after the last, in elements.
    span: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// Most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 8;

impl TorchFile {
    fn open(path: &Path) -> Result<Self> {
        let archive = Archive::open(path)?;
        let refused = |problem: &str| Error::input(path, "", problem);
        let root = archive.names().find_map(|name| name.strip_suffix("data.pkl"));
        let Some(root) = root.filter(|root| root.is_empty() || root.ends_with('/')) else {
            return Err(refused(
                "is a zip archive, but not one of `torch.save`: it has no `data.pkl`.",
            ));
        };
        let root = root.to_owned();
        if archive.entry(&format!("{root}constants.pkl")).is_some() {
            return Err(refused(
                "holds a TorchScript program. Save the state dict alone, `torch.save(model.state_dict(), FILE)`.",
            ));
        }
        let bytes = |name: &str| match archive.entry(&format!("{root}{name}")) {
            Some(entry) => archive.bytes(entry).map(Some),
            None => Ok(None),
        };
        if bytes("byteorder")?.is_some_and(|order| order.trim_ascii() != b"little") {
            return Err(refused("was written on a machine with the other byte order."));
        }
        let bytes = bytes("data.pkl")?.unwrap_or_default();
        let pickle = Pickle::read(&bytes).map_err(|(at, problem)| {
            Error::input(path, format!("byte {at} of `{root}data.pkl`"), format!("{problem}."))
        })?;
        let tensors = tensors(&pickle, &archive, &root)
            .map_err(|(place, problem)| Error::input(path, place, format!("{problem}.")))?;
        Ok(Self { path: path.to_owned(), archive, tensors })
    }

    fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, view)| (name.as_str(), view.shape.as_slice()))
    }

    fn read(&self, name: &str) -> Result<Vec<f32>> {
        let Some(view) = self.tensors.get(name) else {
            let place = format!("tensor `{name}`");
            return Err(Error::input(&self.path, place, "it is not in the file"));
        };
        let place = Place { path: &self.path, name, start: view.start };
        let bytes = view.span * view.element.bitsize() / 8;
        let span = read_floats(&self.archive.file, place, bytes, view.element)?;
        Ok(view.gathered(span))
    }
}

impl View {
    /// The elements in the order of the shape, out of the span that they lie in.
    fn gathered(&self, span: Vec<f32>) -> Vec<f32> {
        if span.is_empty() {
            return span;
        }
        let mut row_major = 1;
        let contiguous = self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == row_major;
            row_major *= size;
            fits
        });
        if contiguous {
            return span;
        }
        let mut places = vec![0];
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            let along = |place: usize| (0..size).map(move |index| place + index * stride);
            places = places.into_iter().flat_map(along).collect();
        }
        places.into_iter().map(|place| span[place]).collect()
    }
}

/// The tensors of a pickled state dict, each held against the storage that it is a view of; or where something is wrong,
/// and what.
fn tensors(
    pickle: &Pickle,
    archive: &Archive,
    root: &str,
) -> Result<BTreeMap<String, View>, (String, String)> {
    let advice = "Save the state dict alone, `torch.save(model.state_dict(), FILE)`";
    let Value::Dict(items) = pickle.whole() else {
        return Err((String::new(), format!("holds something that is no dict. {advice}")));
    };
    let mut tensors = BTreeMap::new();
    for &(name, value) in items {
        let Value::Text(name) = pickle.get(name) else {
            return Err((String::new(), format!("has a key that is no text. {advice}")));
        };
        let Value::Tensor { storage, offset, shape, strides } = *pickle.get(value) else {
            let name: String = name.chars().take(100).collect();
            let problem = format!("is no tensor, so that this is no state dict. {advice}");
            return Err((format!("`{name}`"), problem));
        };
        let place = || format!("tensor `{name}`");
        let damaged = |problem: &str| (place(), format!("{problem}: the file is damaged"));
        let Value::Storage { key, element } = *pickle.get(storage) else {
            return Err(damaged("has no storage"));
        };
        let Value::Text(key) = pickle.get(key) else { return Err(damaged("has no storage")) };
        let entry = archive.entry(&format!("{root}data/{key}"));
        let entry = entry.ok_or_else(|| damaged("has no elements in the archive"))?;
        let (shape, strides) = Option::zip(sizes(pickle, shape), sizes(pickle, strides))
            .ok_or_else(|| damaged("has no shape"))?;
        let view = view(element, entry, offset, shape, strides)
            .ok_or_else(|| damaged("reaches beyond its storage"))?;
        if tensors.insert(name.clone(), view).is_some() {
            return Err(damaged("stands in it twice"));
        }
    }
    Ok(tensors)
}

/// The numbers of a tuple, none of them negative.
fn sizes(pickle: &Pickle, tuple: Ref) -> Option<Vec<usize>> {
    let Value::Tuple(items) = pickle.get(tuple) else { return None };
    let size = |&item: &Ref| match *pickle.get(item) {
        Value::Int(size) => usize::try_from(size).ok(),
        _ => None,
    };
    items.get(..items.len().min(MOST_DIMENSIONS + 1))?.iter().map(size).collect()
}

/// A view of a storage, if it lies within it.
fn view(
    element: Dtype,
    storage: Entry,
    offset: i64,
    shape: Vec<usize>,
    strides: Vec<usize>,
) -> Option<View> {
    let width = element.bitsize() / 8;
    let elements = usize::try_from(storage.length).ok()? / width;
    let offset = usize::try_from(offset).ok()?;
    if shape.len() != strides.len() || shape.len() > MOST_DIMENSIONS {
        return None;
    }
    let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size))?;
    let last = shape.iter().zip(&strides).try_fold(0usize, |last, (&size, &stride)| {
        last.checked_add(size.saturating_sub(1).checked_mul(stride)?)
    })?;
    let span = if count == 0 { 0 } else { last.checked_add(1)? };
    let end = offset.checked_add(span)?;
    let fits = end <= elements && count <= elements;
    let start = storage.start + (offset * width) as u64;
    fits.then_some(View { element, start, span, shape, strides })
}
