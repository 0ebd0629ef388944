//! Tensor files: safetensors, alone or in shards. A file's header is held against its length before
//! anything is read, and tensors are read one at a time.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use burn::tensor::{DType, bf16, f16};
use coconut_kernels::host;
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use serde::Deserialize;

use super::parameters::NamedTensors;
use crate::{Error, Result, hub};

/// The file that holds a checkpoint's weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// The index that names the shards of a checkpoint whose weights are split.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// How a file begins that Git LFS left in a clone instead of the large file it stands for.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// The longest header that the format allows, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;

/// Tensors by name: shape and elements, row-major.
pub type HostTensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// An open safetensors file whose header fits it.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    /// Where the header ends and the tensors begin, in bytes.
    start: u64,
    tensors: BTreeMap<String, TensorInfo>,
}

impl TensorFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// A Git LFS pointer, and a header that is malformed or tells of more or fewer bytes than the file has.
    pub fn open(path: &Path) -> Result<Self> {
        let broken = |why: String| {
            let problem = format!(
                "not a whole safetensors file ({why}). It may have been cut short: copy or write it again."
            );
            Error::input(path, "", problem)
        };
        let mut file = File::open(path).map_err(Error::io("read", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let mut size = [0; 8];
        if length < 8 {
            return Err(broken("it has less than 8 bytes".into()));
        }
        file.read_exact(&mut size).map_err(Error::io("read", path))?;
        if size == LFS_POINTER[..8] {
            let problem = format!(
                "a Git LFS pointer of {length} bytes, which stands for the tensors and does not hold them. Run `git lfs pull` in the repository that it was cloned from, or fetch the model with `hf download`."
            );
            return Err(Error::input(path, "", problem));
        }
        let size = u64::from_le_bytes(size);
        if size > LONGEST_HEADER || size > length - 8 {
            return Err(broken(format!("its header would take {size} of {length} bytes")));
        }
        let mut header = vec![0; size as usize];
        file.read_exact(&mut header).map_err(Error::io("read", path))?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| broken(format!("its header: {e}")))?;
        let (told, start) = (metadata.data_len() as u64, 8 + size);
        if told != length - start {
            let has = length - start;
            return Err(broken(format!(
                "its header tells of {told} bytes of tensors, it has {has}"
            )));
        }
        let tensors =
            metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self { path: path.to_owned(), file, start, tensors })
    }

    /// Names and shapes.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info.shape.as_slice()))
    }

    /// A tensor's elements as f32, row-major.
    ///
    /// # Errors
    /// A name that is not in the file, a type that is not floating point, and elements that are not
    /// finite: what is computed with them would be NaN throughout.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let Some(info) = self.tensors.get(name) else {
            let place = format!("tensor `{name}`");
            return Err(Error::input(&self.path, place, "it is not in the file"));
        };
        let (first, last) = info.data_offsets;
        let place = Place { path: &self.path, name, start: self.start + first as u64 };
        read_floats(&self.file, place, last - first, info.dtype)
    }
}

/// Where a tensor lies.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The file.
    pub path: &'a Path,
    /// The tensor's name.
    pub name: &'a str,
    /// The first byte of its elements in the file.
    pub start: u64,
}

/// So many bytes of a file as f32.
///
/// # Errors
/// A type that is not floating point, and elements that are not finite: what is computed with them would be NaN
/// throughout.
pub fn read_floats(mut file: &File, at: Place, bytes: usize, dtype: Dtype) -> Result<Vec<f32>> {
    let refused = |problem| Err(Error::input(at.path, format!("tensor `{}`", at.name), problem));
    file.seek(SeekFrom::Start(at.start)).map_err(Error::io("read", at.path))?;
    let values = match dtype {
        Dtype::F32 => converted(file, bytes, f32::from_le_bytes),
        Dtype::F64 => converted(file, bytes, |x| f64::from_le_bytes(x) as f32),
        Dtype::F16 => converted(file, bytes, |x| f16::from_le_bytes(x).to_f32()),
        Dtype::BF16 => converted(file, bytes, |x| bf16::from_le_bytes(x).to_f32()),
        other => {
            return refused(format!("its type is {other:?}; expected F32, F64, F16 or BF16"));
        }
    };
    let values = values.map_err(Error::io("read", at.path))?;
    if let Some(element) = values.iter().position(|x| !x.is_finite()) {
        return refused(format!(
            "element {element} is {}, and no model computes with that. The file was written after training had diverged, or is damaged: use an earlier checkpoint, or copy the file again.",
            values[element]
        ));
    }
    Ok(values)
}

/// The next `left` bytes, `WIDTH` at a time through `convert`.
fn converted<const WIDTH: usize>(
    mut file: &File,
    mut left: usize,
    convert: impl Fn([u8; WIDTH]) -> f32,
) -> std::io::Result<Vec<f32>> {
    let mut values = Vec::with_capacity(left / WIDTH);
    let mut buffer = vec![0; left.min(1 << 20)]; // a multiple of every WIDTH
    while left > 0 {
        let bytes = &mut buffer[..left.min(1 << 20)];
        file.read_exact(bytes)?;
        left -= bytes.len();
        values.extend(bytes.as_chunks::<WIDTH>().0.iter().map(|&x| convert(x)));
    }
    Ok(values)
}

/// The weights of a model folder: one file, or the shards that its index names.
#[derive(Debug)]
pub struct ModelFiles {
    /// The single file, or the index.
    pub path: PathBuf,
    files: Vec<TensorFile>,
    /// For each tensor's name, the index of the file that holds it.
    holder: BTreeMap<String, usize>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

impl ModelFiles {
    /// Opens a folder's weights and reads the headers.
    ///
    /// # Errors
    /// No weights, missing or broken shards, and an index that does not tell what the shards hold; of a snapshot in
    /// the Hugging Face cache, with the command that fetches the rest.
    pub fn open(folder: &Path) -> Result<Self> {
        let (single, index) = (folder.join(WEIGHTS_FILE), folder.join(INDEX_FILE));
        let dangling =
            [&single, &index].into_iter().find(|path| path.is_symlink() && !path.exists());
        if let Some(link) = dangling {
            let problem =
                format!("a link to a file that is not there. {}.", hub::completion(folder));
            return Err(Error::input(link, "", problem));
        }
        if single.exists() {
            let file = TensorFile::open(&single)?;
            let holder = file.tensors.keys().map(|name| (name.clone(), 0)).collect();
            return Ok(Self { path: single, files: vec![file], holder });
        }
        if !index.exists() {
            let problem = format!(
                "the folder has no weights: neither `{WEIGHTS_FILE}` nor `{INDEX_FILE}`. {}; weights in another format (`.bin`) must be written again as safetensors, which `coconut import` can do.",
                hub::completion(folder)
            );
            return Err(Error::input(folder, "", problem));
        }
        Self::open_shards(folder, &index)
    }

    fn open_shards(folder: &Path, index: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(index).map_err(Error::io("read", index))?;
        let Index { weight_map } = serde_json::from_str(&text).map_err(|e| {
            let problem = format!("{e}. Expected `weight_map`, the file of each tensor.");
            Error::input(index, format!("line {}", e.line()), problem)
        })?;
        let mut names: Vec<&String> = weight_map.values().collect();
        names.sort();
        names.dedup();
        let inside = |name: &str| Path::new(name).file_name().is_some_and(|file| file == name);
        if let Some(name) = names.iter().find(|name| !inside(name)) {
            let problem = format!("`{name}` is not the name of a file beside it");
            return Err(Error::input(index, "", problem));
        }
        let absent = names.iter().filter(|name| !folder.join(name).is_file());
        let absent: Vec<String> = absent.map(|name| format!("`{name}` is missing")).collect();
        if !absent.is_empty() {
            let problem = format!("{}. {}.", listed(&absent), hub::completion(folder));
            return Err(Error::input(index, "", problem));
        }
        let files: Vec<TensorFile> =
            names.iter().map(|name| TensorFile::open(&folder.join(name))).collect::<Result<_>>()?;
        let mut holder = BTreeMap::new();
        let mut problems = Vec::new();
        for (at, file) in files.iter().enumerate() {
            for name in file.tensors.keys() {
                if let Some(before) = holder.insert(name.clone(), at) {
                    problems
                        .push(format!("`{name}` is in `{}` and `{}`", names[before], names[at]));
                }
            }
        }
        for (name, file) in &weight_map {
            if holder.get(name).is_none_or(|&at| names[at] != file) {
                problems.push(format!("`{name}` is not in `{file}`"));
            }
        }
        if !problems.is_empty() {
            let problem = format!(
                "the shards do not hold what the index says: {}. {}.",
                listed(&problems),
                hub::completion(folder)
            );
            return Err(Error::input(index, "", problem));
        }
        Ok(Self { path: index.to_owned(), files, holder })
    }

    /// Names and shapes.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.files.iter().flat_map(TensorFile::shapes)
    }

    /// A tensor's elements as f32, row-major.
    ///
    /// # Errors
    /// As [`TensorFile::read`].
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        match self.holder.get(name) {
            Some(&at) => self.files[at].read(name),
            None => Err(Error::input(&self.path, format!("tensor `{name}`"), "it is missing")),
        }
    }
}

/// The first of many problems, and how many more there are.
pub fn listed(problems: &[String]) -> String {
    let shown = problems.len().min(8);
    let more = match problems.len() - shown {
        0 => String::new(),
        n => format!("; and {n} more"),
    };
    format!("{}{more}", problems[..shown].join("; "))
}

/// Tensors of a safetensors file as f32.
pub fn read_tensors(path: &Path) -> Result<HostTensors> {
    let file = TensorFile::open(path)?;
    let tensor =
        |(name, shape): (&str, &[usize])| Ok((name.to_owned(), (shape.to_vec(), file.read(name)?)));
    file.shapes().map(tensor).collect()
}

/// Writes named tensors as f32 to a safetensors file, one at a time.
pub fn write_tensors(path: &Path, named: &NamedTensors) -> Result<()> {
    let mut end = 0;
    let infos = named.iter().map(|(name, flat)| {
        let first = end;
        end += 4 * flat.shape.iter().product::<usize>();
        let info =
            TensorInfo { dtype: Dtype::F32, shape: flat.shape.clone(), data_offsets: (first, end) };
        (name.clone(), info)
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let unwritable = |e: String| Error::Internal(format!("cannot write {}: {e}", path.display()));
    let metadata = Metadata::new(Some(format), infos.collect());
    let metadata = metadata.map_err(|e| unwritable(e.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| unwritable(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' '); // the format aligns what follows
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for flat in named.values() {
            let data = host::data(flat.values.clone()).convert_dtype(DType::F32);
            file.write_all(data.as_bytes())?;
        }
        file.flush()
    };
    write().map_err(Error::io("write", path))
}
