//! The task that a recipe names, with its settings.

use super::RunConfig;
use crate::{
    Result,
    data::tasks::{Task, arithmetic::Operator},
};

impl RunConfig {
    /// The task to generate, with its settings.
    ///
    /// # Errors
    /// A name that is no task's, or a setting that the task does not have.
    pub fn task(&self) -> Result<Option<Task>> {
        let error = |key: &str, problem: String| Err(self.error(key, problem));
        let Some(name) = &self.task else { return Ok(None) };
        let Some(mut task) = Task::named(name) else {
            return error(
                "task",
                format!("is `{name}`; expected one of {}", Task::NAMES.join(", ")),
            );
        };
        let given = [
            ("operands", self.operands.is_some(), "arithmetic"),
            ("operators", self.operators.is_some(), "arithmetic"),
            ("operations", self.operations.is_some(), "arithmetic"),
            ("modulus", self.modulus.is_some(), "arithmetic"),
            ("value_steps", self.value_steps.is_some(), "arithmetic"),
            ("digits", self.digits.is_some(), "multiply"),
            ("entries", self.entries.is_some(), "pointer"),
            ("names", self.names.is_some(), "pointer"),
            ("hops", self.hops.is_some(), "pointer"),
            ("parents", self.parents.is_some(), "graph, prosqa"),
            ("graph_kind", self.graph_kind.is_some(), "graph, prosqa"),
            ("edge_steps", self.edge_steps.is_some(), "graph"),
            ("permuted_nodes", self.permuted_nodes.is_some(), "graph"),
            ("nodes", self.nodes.is_some(), "graph, prosqa"),
            ("distance", self.distance.is_some(), "graph, prosqa"),
        ];
        if let Some((key, _, of)) =
            given.iter().find(|(_, given, of)| *given && !of.contains(name.as_str()))
        {
            return error(key, format!("is a setting of the task {of}, not of {name}"));
        }
        match &mut task {
            Task::Arithmetic(arithmetic) => {
                if let Some([low, high]) = self.operands {
                    arithmetic.operands = low..=high;
                }
                if let Some([fewest, most]) = self.operations {
                    arithmetic.n_operations = fewest..=most;
                }
                if let Some(symbols) = &self.operators {
                    let operators = symbols.chars().map(Operator::from_symbol).collect();
                    let Some(operators) = operators else {
                        return error("operators", format!("is `{symbols}`; expected some of +-*"));
                    };
                    arithmetic.operators = operators;
                }
                if let Some(modulus) = self.modulus {
                    arithmetic.modulus = (modulus != 0).then_some(modulus);
                }
                arithmetic.value_steps = self.value_steps.unwrap_or(false);
            }
            Task::Multiply(multiply) => {
                if let Some([a, b]) = self.digits {
                    (multiply.a_digits, multiply.b_digits) = (a, b);
                }
            }
            Task::Pointer(pointer) => {
                pointer.entries = self.entries.unwrap_or(pointer.entries);
                pointer.names = self.names.unwrap_or(pointer.entries);
                if let Some([fewest, most]) = self.hops {
                    pointer.hops = fewest..=most;
                }
            }
            Task::Graph(shape) | Task::Prosqa(shape) => {
                shape.n_drawn = self.nodes.unwrap_or(shape.n_drawn);
                if let Some([fewest, most]) = self.distance {
                    shape.n_steps = fewest..=most;
                }
                shape.mean_parents = self.parents.unwrap_or(shape.mean_parents);
                shape.kind = self.graph_kind.unwrap_or(shape.kind);
                shape.edge_steps = self.edge_steps.unwrap_or(false);
                shape.permuted = self.permuted_nodes.unwrap_or(false);
            }
        }
        Ok(Some(task))
    }
}
