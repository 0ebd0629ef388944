//! The heads of attention.

/// How many query heads and key/value heads there are, and how wide one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Heads {
    /// Number of query heads.
    pub query: usize,
    /// Number of key heads and of value heads; divides `query`.
    pub key_value: usize,
    /// Width of one head.
    pub dim: usize,
}

impl Heads {
    /// Width of a fused row of queries, keys and values: `(query + 2 · key_value) · dim`.
    pub fn qkv_width(self) -> usize {
        (self.query + 2 * self.key_value) * self.dim
    }
}
