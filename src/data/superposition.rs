//! What a step of a search knows about each node of a graph: the classes by which a thought's superposition of nodes
//! is read (Zhu et al. 2025).

use super::Graph;

/// Where a node stands after some steps of a breadth-first search from the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeClass {
    /// On a shortest path to the target, at just this distance from the root.
    Optimal,
    /// At just this distance, on no shortest path to the target.
    Frontier,
    /// Reachable from the root, nearer or farther.
    Reachable,
    /// Not reachable.
    Unreachable,
}

impl NodeClass {
    /// All, the narrowest first.
    pub const ALL: [Self; 4] = [Self::Optimal, Self::Frontier, Self::Reachable, Self::Unreachable];
}

impl Graph {
    /// The class of each node, by its number, after `step` steps; the root is at 0. Past the target no node is
    /// optimal, and none is where the target cannot be reached.
    pub fn node_classes(&self, step: usize) -> Vec<NodeClass> {
        let frontier = self.frontier_layers();
        let on_path = self.shortest_path_layers().unwrap_or_default();
        let mut classes = vec![NodeClass::Unreachable; self.n_nodes()];
        frontier.iter().flatten().for_each(|&node| classes[node] = NodeClass::Reachable);
        let at = |layers: &[Vec<usize>]| layers.get(step).cloned().unwrap_or_default();
        at(&frontier).into_iter().for_each(|node| classes[node] = NodeClass::Frontier);
        at(&on_path).into_iter().for_each(|node| classes[node] = NodeClass::Optimal);
        classes
    }
}
