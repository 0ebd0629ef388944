//! Adapters' files, in PEFT's layout: found, read and written.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::{module::Param, tensor::TensorData};
use coconut_kernels::host;
use serde_json::{Value, json};

use super::{
    attach::{TOKENS, is_adapter, last_part},
    config::{ADAPTER_FILE, CONFIG_FILE, Lora, Tokens, names},
};
use crate::{
    Error, Result,
    model::{
        Transformer,
        config::Family,
        parameters::{self, NamedTensors},
        tensors::{TensorFile, listed, write_tensors},
        transformer::HEAD,
    },
};

/// The file in place of [`ADAPTER_FILE`] where PEFT pickled the tensors, as it always did before its version 0.5.
const PICKLED_FILE: &str = "adapter_model.bin";
/// Stands before every name in [`ADAPTER_FILE`].
const PREFIX: &str = "base_model.model.";

impl Lora {
    /// Refuses a folder of adapters where a whole model is needed.
    ///
    /// # Errors
    /// How to make a whole model of them.
    pub fn refuse(folder: &Path) -> Result<()> {
        if Self::find(folder)?.is_none() {
            return Ok(());
        }
        let folder = folder.display();
        Err(Error::Usage(format!(
            "{folder} holds adapters, not a whole model. Make one of it first: `coconut merge {folder} -o FOLDER`."
        )))
    }

    /// Reads [`CONFIG_FILE`] in a folder; `None` if there is none, as in a folder of a whole model.
    ///
    /// # Errors
    /// A malformed file, and by its key what would change the result and is not computed. A folder that
    /// holds neither adapters nor a model, with the folders in it that hold adapters.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        let path: PathBuf = folder.join(CONFIG_FILE);
        if !path.is_file() {
            return match adapters_inside(folder).as_slice() {
                [] => Ok(None),
                _ if folder.join("config.json").exists() => Ok(None),
                [first, ..] => {
                    let problem = format!(
                        "holds no model, but a folder of adapters under their name, as PEFT writes them. Give the path {}.",
                        first.display()
                    );
                    Err(Error::input(folder, "", problem))
                }
            };
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        Self::parse(&text).map(Some).map_err(|problem| Error::input(&path, "", problem))
    }
}

/// The folders in a folder that hold adapters, in order.
fn adapters_inside(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.retain(|path| path.join(CONFIG_FILE).is_file());
    found.sort();
    found
}

impl Transformer {
    /// The adapters that a folder of PEFT's layout holds, on the model below. Its tables grow to hold
    /// the folder's tokens, or are the folder's own where it holds whole ones.
    ///
    /// # Errors
    /// What is not computed, and what does not fit the model, by name.
    pub fn load_adapters(mut self, mut lora: Lora, folder: &Path) -> Result<Self> {
        let mut file = AdapterFile::open(folder)?;
        let mut rows = self.token_rows(&lora);
        if self.take_tables(&lora, &mut rows, &mut file) {
            // Written again, the folder names both, as they are now.
            let embedding = last_part(self.embedding_name()).into();
            lora.whole_tables = Some(vec![embedding, HEAD.into()]);
        }
        let needed = rows.values().flatten().max().map_or(0, |&id| id as usize + 1);
        if needed > MOST_ROWS {
            file.problems.push(format!("`trainable_token_indices` names token {}", needed - 1));
            return file.finish().map(|()| self);
        }
        // What stands in new rows does not matter: they are all among the folder's own.
        self = self.resize_embeddings(needed, None);
        let mut targets = self.linear_names();
        targets.retain(|name| file.has(&format!("{name}.lora_A.weight")));
        self = self.adapted(lora, &targets, &rows, &mut |name, shape| file.take(name, shape));
        file.finish().map(|()| self)
    }

    /// The token ids that `trainable_token_indices` names, by table.
    fn token_rows(&mut self, lora: &Lora) -> BTreeMap<String, Vec<u32>> {
        let tables = self.tables().into_iter().map(|(name, _)| name).enumerate();
        let named = tables.filter_map(|(at, name)| {
            let ids = match lora.tokens.as_ref()? {
                Tokens::Inputs(ids) => (at == 0).then_some(ids),
                Tokens::ByTable(tables) => {
                    tables.iter().find(|(table, _)| names(&name, table)).map(|(_, ids)| ids)
                }
            };
            Some((name, ids?.clone()))
        });
        named.collect()
    }

    /// Puts the whole tables that a file holds in place of the model's, and tells whether it holds any. The
    /// `rows` that the file gives for such a table are put into it, and out of the list.
    ///
    /// PEFT writes whole tables for `modules_to_save`, each then a table of its own even where the model below ties
    /// them, and after the vocabulary was resized, where tied ones stay tied.
    fn take_tables(
        &mut self,
        lora: &Lora,
        rows: &mut BTreeMap<String, Vec<u32>>,
        file: &mut AdapterFile,
    ) -> bool {
        let (width, tied) = (self.config.d_model, self.config.tie_word_embeddings);
        let embedding = self.embedding_name();
        let [own, head] = [embedding, HEAD].map(|name| {
            let ids = rows.get(name).or(rows.get(embedding).filter(|_| tied));
            file.take_table(name, width, ids.map_or(&[], Vec::as_slice))
        });
        let named = |name: &str| lora.whole_tables.iter().flatten().any(|table| names(name, table));
        for (name, found) in [(embedding, &own), (HEAD, &head)] {
            if found.is_none() && named(name) {
                file.problems.push(format!("`{name}.weight` is missing"));
            }
        }
        let split = match (&own, &head) {
            (Some(own), Some(head)) => own != head,
            (Some(_), None) => named(embedding),
            (None, Some(_)) => named(HEAD),
            (None, None) => return false,
        };
        if tied && split {
            self.lm_head = Some(self.tokens().clone());
            self.config.untie();
        }
        let (tied, device) = (self.config.tie_word_embeddings, self.device());
        for (name, table) in self.tables() {
            let whole = match name == HEAD {
                true => head.as_ref(),
                false => own.as_ref().or(head.as_ref().filter(|_| tied)),
            };
            let Some(values) = whole else { continue };
            let data = TensorData::new(values.clone(), [values.len() / width, width]);
            table.weight = Param::from_tensor(host::upload(data, &device));
            rows.remove(&name);
        }
        let sizes: Vec<usize> =
            self.tables().iter().map(|(_, table)| table.weight.dims()[0]).collect();
        if sizes.iter().any(|&size| size != sizes[0]) {
            file.problems.push(format!("its tables have {sizes:?} rows"));
        }
        self.config.vocab_size = sizes[0];
        true
    }

    /// Writes [`CONFIG_FILE`] and [`ADAPTER_FILE`].
    pub(in crate::model) fn save_adapters(&self, lora: &Lora, folder: &Path) -> Result<()> {
        let path = folder.join(CONFIG_FILE);
        let mut json = serde_json::to_value(lora)
            .map_err(|e| Error::Internal(format!("cannot write JSON: {e}")))?;
        if let Value::Object(json) = &mut json {
            let fixed = json!({
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "bias": "none",
                "inference_mode": true,
                // GPT-2 stores its maps [d_in, d_out].
                "fan_in_fan_out": self.config.family == Family::Gpt2,
            });
            json.extend(fixed.as_object().cloned().unwrap_or_default());
        }
        let text = serde_json::to_string_pretty(&json)
            .map_err(|e| Error::Internal(format!("cannot write JSON: {e}")))?;
        std::fs::write(&path, text + "\n").map_err(Error::io("write", &path))?;
        let mut tensors = parameters::named(self);
        let mut whole = Vec::new();
        if lora.whole_tables.is_some() {
            whole = [self.embedding_name(), HEAD].map(|table| format!("{table}.weight")).to_vec();
            // Of a tied table PEFT makes two, which are alike.
            if let Some(embedding) = tensors.get(&whole[0]).cloned() {
                tensors.entry(whole[1].clone()).or_insert(embedding);
            }
        }
        let adapters: NamedTensors = (tensors.into_iter())
            .filter(|(name, _)| is_adapter(name) || whole.contains(name))
            .map(|(name, flat)| (format!("{PREFIX}{name}"), flat))
            .collect();
        write_tensors(&folder.join(ADAPTER_FILE), &adapters)
    }
}

/// Most rows of a table, as in [`super::ModelConfig::check`].
const MOST_ROWS: usize = 1 << 24;

/// [`ADAPTER_FILE`], and which of its tensors have found their place in the model.
struct AdapterFile {
    path: PathBuf,
    file: TensorFile,
    /// By the name in the model, the file's own name and the shape of each tensor that is still to be placed.
    left: BTreeMap<String, (String, Vec<usize>)>,
    problems: Vec<String>,
    failed: Option<Error>,
}

impl AdapterFile {
    fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(ADAPTER_FILE);
        let pickled = folder.join(PICKLED_FILE);
        if !path.exists() && pickled.exists() {
            let problem = format!(
                "adapters as pickled Python, which could run any program when it is read and is not. Write them again as `{ADAPTER_FILE}`: load them with `PeftModel.from_pretrained(model, FOLDER)` and save them with `save_pretrained(FOLDER)`."
            );
            return Err(Error::input(pickled, "", problem));
        }
        let file = TensorFile::open(&path)?;
        let tensor = |(name, shape): (&str, &[usize])| {
            let own = name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
            (own, (name.to_owned(), shape.to_vec()))
        };
        let left = file.shapes().map(tensor).collect();
        Ok(Self { path, file, left, problems: Vec::new(), failed: None })
    }

    fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// A tensor of a name and a shape; zeros if it is not there, which [`AdapterFile::finish`] reports.
    fn take(&mut self, name: &str, shape: &[usize]) -> TensorData {
        TensorData::new(self.values(name, shape), shape)
    }

    fn values(&mut self, name: &str, shape: &[usize]) -> Vec<f32> {
        let stored = match self.left.remove(name) {
            Some((stored, found)) if found == shape => stored,
            Some((_, found)) => {
                self.problems.push(format!("`{name}` is {found:?}, expected {shape:?}"));
                return vec![0.0; shape.iter().product()];
            }
            None => {
                self.problems.push(format!("`{name}` is missing"));
                return vec![0.0; shape.iter().product()];
            }
        };
        self.file.read(&stored).unwrap_or_else(|error| {
            self.failed = Some(error);
            vec![0.0; shape.iter().product()]
        })
    }

    /// A whole table of rows of `width`, if the file holds it, with the rows of `ids` that it holds beside it.
    fn take_table(&mut self, name: &str, width: usize, ids: &[u32]) -> Option<Vec<f32>> {
        let below = format!("{name}.token_adapter.base_layer.weight"); // where some rows are overridden
        let key = [format!("{name}.weight"), below].into_iter().find(|key| self.has(key))?;
        // The same table once more, and the one below it, which nothing reads.
        self.left.remove(&format!("{name}.modules_to_save.weight"));
        self.left.remove(&format!("{name}.original_module.weight"));
        let rows = self.left.get(&key).and_then(|(_, shape)| shape.first().copied()).unwrap_or(0);
        if rows == 0 || rows > MOST_ROWS {
            self.problems.push(format!("`{key}` has {rows} rows"));
            return None;
        }
        let mut table = self.values(&key, &[rows, width]);
        let overrides = format!("{name}.{TOKENS}");
        if self.has(&overrides) {
            let values = self.values(&overrides, &[ids.len(), width]);
            for (&id, values) in ids.iter().zip(values.chunks_exact(width)) {
                match table.get_mut(id as usize * width..).and_then(|rest| rest.get_mut(..width)) {
                    Some(row) => row.copy_from_slice(values),
                    None => self.problems.push(format!("`{key}` has no row {id}")),
                }
            }
        }
        Some(table)
    }

    /// # Errors
    /// All that did not fit, by name, and what was left over.
    fn finish(mut self) -> Result<()> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let left = self.left.keys().map(|name| format!("`{name}` has no place in the model"));
        self.problems.extend(left);
        if self.problems.is_empty() {
            return Ok(());
        }
        let problem = format!(
            "the adapters do not fit `{CONFIG_FILE}` and the model below: {}. The three must belong together.",
            listed(&self.problems)
        );
        Err(Error::input(&self.path, "", problem))
    }
}
