//! What the pickles that `torch.save` writes hold: values, and how to look at them. The machine that reads them is
//! `machine`; it calls nothing.
//!
//! Invariant: of the functions and classes that a pickle may name, only those of [`Global`] mean anything; whatever
//! else a file would make or call is a [`Node::Object`], which knows its name and nothing more. Values are numbers
//! into a heap, so that the deepest nesting is no recursion.

use crate::tensor::Dtype;
use crate::{Result, WeightsError};

use machine::Run;

mod machine;

/// What a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildTensorV2,
    RebuildParameter,
    Size,
    Storage(Dtype),
    /// Anything else: a place among the names of the pickle. It is never called.
    Other(u32),
}

impl Global {
    fn of(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensorV2),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Some(Self::RebuildParameter)
            }
            ("torch", "Size") => Some(Self::Size),
            ("torch" | "torch.storage", class) => Dtype::of_storage(class).map(Self::Storage),
            _ => None,
        }
    }
}

/// A value: small things themselves, others as their place in the heap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Global(Global),
    Node(usize),
    /// On the stack alone: where a run of items begins.
    Mark,
}

/// A value with parts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Text(String),
    /// A whole number beyond 64 bits, little endian.
    Big(Vec<u8>),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// What a file calls a persistent id: a reference to a storage.
    Persistent(Value),
    Tensor(View),
    /// What something else than a tensor would make, by the place of its name: an object of a class, or
    /// what a function returned. Whatever is put into it is gone.
    Object(u32),
}

/// A tensor as a pickle describes it: a view of a storage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    pub(crate) storage: Value,
    /// In numbers, from the storage's start.
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    /// In numbers.
    pub(crate) strides: Vec<usize>,
}

/// A pickle that was read.
#[derive(Debug)]
pub(crate) struct Pickle {
    heap: Vec<Node>,
    /// Of functions and classes that mean nothing here, such as `argparse.Namespace`.
    names: Vec<String>,
    pub(crate) root: Value,
    /// Bytes it took, from the start of what it was read from.
    pub(crate) length: usize,
}

impl Pickle {
    /// Reads the pickle at the start of `bytes`.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self> {
        let Run {
            heap,
            names,
            root,
            length,
        } = machine::run(bytes)?;
        Ok(Self {
            heap,
            names,
            root,
            length,
        })
    }

    pub(crate) fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(at) => self.heap.get(at),
            Value::None
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::Global(_)
            | Value::Mark => None,
        }
    }

    /// All references to storages that it makes, wherever they are.
    pub(crate) fn storages(&self) -> impl Iterator<Item = Value> {
        let nodes = self.heap.iter().enumerate();
        nodes
            .filter_map(|(at, node)| matches!(node, Node::Persistent(_)).then_some(Value::Node(at)))
    }

    /// The name of what a value is or would be made by, if that means nothing here.
    pub(crate) fn stranger(&self, value: Value) -> Option<&str> {
        let number = match value {
            Value::Global(Global::Other(number)) => number,
            Value::None
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::Global(_)
            | Value::Node(_)
            | Value::Mark => match self.node(value)? {
                Node::Object(number) => *number,
                Node::Text(_)
                | Node::Big(_)
                | Node::Tuple(_)
                | Node::List(_)
                | Node::Dict(_)
                | Node::Persistent(_)
                | Node::Tensor(_) => return None,
            },
        };
        self.names.get(number as usize).map(String::as_str)
    }

    pub(crate) fn text(&self, value: Value) -> Option<&str> {
        let Node::Text(text) = self.node(value)? else {
            return None;
        };
        Some(text)
    }

    pub(crate) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        let Node::Dict(entries) = self.node(value)? else {
            return None;
        };
        Some(entries)
    }

    /// The items of a tuple or list.
    pub(crate) fn items(&self, value: Value) -> Option<&[Value]> {
        items(&self.heap, value)
    }
}

fn items(heap: &[Node], value: Value) -> Option<&[Value]> {
    let Value::Node(at) = value else { return None };
    let (Node::Tuple(items) | Node::List(items)) = heap.get(at)? else {
        return None;
    };
    Some(items)
}

fn torn() -> WeightsError {
    WeightsError::damaged("the file ends in the middle of its description; it is truncated")
}

fn odd(what: &str) -> WeightsError {
    WeightsError::damaged(format!(
        "the file's description is no pickle of tensors: {what}"
    ))
}

pub(crate) fn size(value: Value) -> Result<usize> {
    match value {
        Value::Int(number) => {
            usize::try_from(number).map_err(|_| odd(&format!("{number} is no size")))
        }
        Value::None
        | Value::Bool(_)
        | Value::Float(_)
        | Value::Global(_)
        | Value::Node(_)
        | Value::Mark => Err(odd("a size is no whole number")),
    }
}
