//! Runs a pickle: a machine with a stack and a memo that can call nothing. (A pickle is a program; Python's own
//! reader runs whatever function it names.)
//!
//! Invariants: of the opcodes it knows those that build plain data. `REDUCE` and `BUILD` are no calls: each case is
//! written out below. Every opcode adds at most one node to the heap: a pickle of n bytes makes O(n) of them.

use std::cell::Cell;
use std::collections::HashMap;

use super::{Global, Node, Value, View, items, odd, size, torn};
use crate::Result;

/// Bytes of one text or number: names of weights are far shorter.
const TEXT_MAX_BYTES: usize = 64 * 1024;
/// Newest pickle protocol whose opcodes are those below.
const PROTOCOL_MAX: u8 = 5;

/// What a pickle left behind.
pub(super) struct Run {
    pub(super) heap: Vec<Node>,
    pub(super) names: Vec<String>,
    pub(super) root: Value,
    /// Bytes it took.
    pub(super) length: usize,
}

/// Runs the pickle at the start of `bytes` to its end.
pub(super) fn run(bytes: &[u8]) -> Result<Run> {
    let mut machine = Machine {
        bytes,
        at: 0,
        heap: Vec::new(),
        names: Vec::new(),
        numbers: HashMap::new(),
        stack: Vec::new(),
        memo: HashMap::new(),
        copied: Cell::new(0),
    };
    let root = machine.run()?;
    Ok(Run {
        heap: machine.heap,
        names: machine.names,
        root,
        length: machine.at,
    })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    heap: Vec<Node>,
    names: Vec<String>,
    /// The place of each of the names.
    numbers: HashMap<String, u32>,
    stack: Vec<Value>,
    memo: HashMap<u64, Value>,
    /// Items that calls have copied; a list may be given to many.
    copied: Cell<usize>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        // Both may lie beyond the file: a length is the file's word.
        let end = self.at.checked_add(count).ok_or_else(torn)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(torn)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number of `count` bytes, 8 at most.
    fn number(&mut self, count: usize) -> Result<u64> {
        let mut wide = [0; 8];
        wide[..count].copy_from_slice(self.take(count)?);
        Ok(u64::from_le_bytes(wide))
    }

    fn sized(&mut self, size_bytes: usize) -> Result<&'a [u8]> {
        let length = usize::try_from(self.number(size_bytes)?).map_err(|_| torn())?;
        // Before anything is reserved: the length is the file's word.
        if length > TEXT_MAX_BYTES {
            return Err(odd(&format!("a text of {length} bytes")));
        }
        self.take(length)
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(TEXT_MAX_BYTES).position(|b| *b == b'\n');
        let line = self.take(end.ok_or_else(torn)?)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| odd("a name that is no text"))
    }

    fn push_node(&mut self, node: Node) {
        self.stack.push(Value::Node(self.heap.len()));
        self.heap.push(node);
    }

    fn push_text(&mut self, bytes: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(bytes).map_err(|_| odd("a text that is not UTF-8"))?;
        self.push_node(Node::Text(text.to_owned()));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value> {
        match self.stack.pop() {
            // A mark is no value: taken for one it would let items of one container end in another.
            Some(Value::Mark) | None => Err(odd("a value is missing")),
            Some(value) => Ok(value),
        }
    }

    /// What was pushed since the last mark.
    fn since_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark);
        let mark = mark.ok_or_else(|| odd("a mark is missing"))?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn top_node(&mut self) -> Result<&mut Node> {
        match self.stack.last() {
            Some(Value::Node(at)) => Ok(&mut self.heap[*at]),
            Some(_) | None => Err(odd("something is put into what holds nothing")),
        }
    }

    fn run(&mut self) -> Result<Value> {
        loop {
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            // An opcode that none of these knows is refused by the last: a new one must not slip through.
            if !(self.plain(opcode)? || self.container(opcode)? || self.memory(opcode)?) {
                self.object(opcode)?;
            }
        }
    }

    /// Numbers, texts and flags.
    fn plain(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            0x80 => {
                let protocol = self.byte()?;
                // A newer one may give a known opcode another meaning.
                if protocol > PROTOCOL_MAX {
                    return Err(odd(&format!("protocol {protocol} is unknown")));
                }
            }
            // A frame only says how much may be read ahead.
            0x95 => drop(self.take(8)?),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'J' => {
                let bytes = self.take(4)?.try_into().map_err(|_| torn())?;
                self.stack
                    .push(Value::Int(i32::from_le_bytes(bytes).into()));
            }
            b'K' => {
                let number = self.byte()?;
                self.stack.push(Value::Int(number.into()));
            }
            b'M' => {
                let number = self.number(2)?;
                self.stack.push(Value::Int(number.cast_signed()));
            }
            0x8a => {
                let bytes = self.sized(1)?;
                self.long(bytes);
            }
            0x8b => {
                let bytes = self.sized(4)?;
                self.long(bytes);
            }
            b'G' => {
                let bytes = self.take(8)?.try_into().map_err(|_| torn())?;
                self.stack.push(Value::Float(f64::from_be_bytes(bytes)));
            }
            b'X' | b'T' => {
                let text = self.sized(4)?;
                self.push_text(text)?;
            }
            0x8c | b'U' => {
                let text = self.sized(1)?;
                self.push_text(text)?;
            }
            // Bytes, which nothing that is looked at has.
            b'B' | b'C' => {
                let bytes = self.sized(if opcode == b'B' { 4 } else { 1 })?;
                self.push_node(Node::Big(bytes.to_vec()));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A whole number of any length, in two's complement.
    fn long(&mut self, bytes: &[u8]) {
        if bytes.len() > 8 {
            self.push_node(Node::Big(bytes.to_vec()));
            return;
        }
        let is_negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = [if is_negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.stack.push(Value::Int(i64::from_le_bytes(wide)));
    }

    /// Tuples, lists and dictionaries.
    fn container(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            b'(' => self.stack.push(Value::Mark),
            b')' => self.push_node(Node::Tuple(Vec::new())),
            // A set is a list that has each item once; its items are put in as those of a list.
            b']' | 0x8f => self.push_node(Node::List(Vec::new())),
            b'}' => self.push_node(Node::Dict(Vec::new())),
            b't' => {
                let items = self.since_mark()?;
                self.push_node(Node::Tuple(items));
            }
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    items.insert(0, self.pop()?);
                }
                self.push_node(Node::Tuple(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.since_mark()?;
                self.append(items)?;
            }
            0x91 => {
                let items = self.since_mark()?;
                self.push_node(Node::List(items));
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set_items(&items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn append(&mut self, items: Vec<Value>) -> Result<()> {
        match self.top_node()? {
            Node::List(list) => list.extend(items),
            // What is put into a stranger is inert: that it is there must not make the weights beside it unreadable.
            Node::Object(_) => {}
            Node::Text(_)
            | Node::Big(_)
            | Node::Tuple(_)
            | Node::Dict(_)
            | Node::Persistent(_)
            | Node::Tensor(_) => return Err(odd("something is appended to what is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Value]) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        let no_dict = || odd("an entry is put into what is no dictionary");
        if !rest.is_empty() {
            return Err(no_dict());
        }
        match self.top_node()? {
            Node::Dict(entries) => entries.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            Node::Object(_) => {}
            Node::Text(_)
            | Node::Big(_)
            | Node::Tuple(_)
            | Node::List(_)
            | Node::Persistent(_)
            | Node::Tensor(_) => return Err(no_dict()),
        }
        Ok(())
    }

    /// What is remembered under a number.
    fn memory(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            b'q' | b'r' | 0x94 => {
                let key = match opcode {
                    b'q' => self.number(1)?,
                    b'r' => self.number(4)?,
                    // MEMOIZE counts by itself.
                    _ => self.memo.len() as u64,
                };
                let top = self.pop()?;
                self.stack.push(top);
                self.memo.insert(key, top);
            }
            b'h' | b'j' => {
                let key = self.number(if opcode == b'h' { 1 } else { 4 })?;
                let known = self.memo.get(&key);
                let value = *known.ok_or_else(|| odd("it refers to what was never there"))?;
                self.stack.push(value);
            }
            b'0' => drop(self.pop()?),
            // The mark and what is above it, or the top once more.
            b'1' => drop(self.since_mark()?),
            b'2' => {
                let top = self.pop()?;
                self.stack.extend([top, top]);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What names classes and functions. Nothing is called.
    fn object(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let global = self.global(module, name);
                self.stack.push(Value::Global(global));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (module, name) = (self.own_text(module)?, self.own_text(name)?);
                let global = self.global(&module, &name);
                self.stack.push(Value::Global(global));
            }
            // An object of a class, with arguments by place (and by name).
            0x81 | 0x92 => {
                if opcode == 0x92 {
                    self.pop()?;
                }
                let (arguments, class) = (self.pop()?, self.pop()?);
                let made = self.reduce(class, arguments)?;
                self.push_made(made);
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let made = self.reduce(function, arguments)?;
                self.push_made(made);
            }
            b'b' => {
                // Attributes of a state_dict are versions of modules; those of strangers say nothing.
                self.pop()?;
                if !matches!(self.top_node()?, Node::Dict(_) | Node::Object(_)) {
                    return Err(odd("attributes are set on what has none"));
                }
            }
            b'Q' => {
                let id = self.pop()?;
                self.push_node(Node::Persistent(id));
            }
            other => return Err(odd(&format!("opcode {other:#04x} at byte {}", self.at - 1))),
        }
        Ok(())
    }

    fn push_made(&mut self, made: Made) {
        match made {
            Made::Node(node) => self.push_node(node),
            Made::Value(value) => self.stack.push(value),
        }
    }

    /// What a name means here.
    fn global(&mut self, module: &str, name: &str) -> Global {
        Global::of(module, name).unwrap_or_else(|| {
            let full = format!("{module}.{name}");
            // A pickle of more names than that would not fit in memory.
            let next = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
            let names = &mut self.names;
            let number = self.numbers.entry(full).or_insert_with_key(|full| {
                names.push(full.clone());
                next
            });
            Global::Other(*number)
        })
    }

    fn own_text(&self, value: Value) -> Result<String> {
        let Value::Node(at) = value else {
            return Err(odd("a name is no text"));
        };
        let Node::Text(text) = &self.heap[at] else {
            return Err(odd("a name is no text"));
        };
        Ok(text.clone())
    }

    /// What PyTorch's functions would return for `arguments`.
    fn reduce(&self, function: Value, arguments: Value) -> Result<Made> {
        let given = items(&self.heap, arguments).ok_or_else(|| odd("arguments are no tuple"))?;
        let function = match function {
            Value::Global(Global::Other(name)) => return Ok(Made::Node(Node::Object(name))),
            Value::Global(function) => function,
            // What a stranger returned would be called: that is the stranger's, too.
            Value::Node(at) if matches!(self.heap[at], Node::Object(_)) => {
                return Ok(Made::Node(self.heap[at].clone()));
            }
            Value::None
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::Node(_)
            | Value::Mark => return Err(odd("what is called is no function")),
        };
        match (function, given) {
            (Global::OrderedDict, []) => Ok(Made::Node(Node::Dict(Vec::new()))),
            (Global::OrderedDict, [pairs]) => self.ordered_dict(*pairs),
            (Global::Size, [sides]) => Ok(Made::Value(*sides)),
            // A parameter is its tensor: whether it was trained, and by which hooks, is not the weights' business.
            (Global::RebuildParameter, [tensor, ..]) => Ok(Made::Value(*tensor)),
            (
                Global::RebuildTensor | Global::RebuildTensorV2,
                [storage, offset, shape, strides, ..],
            ) => Ok(Made::Node(Node::Tensor(View {
                storage: *storage,
                offset: size(*offset)?,
                shape: self.sizes(*shape)?,
                strides: self.sizes(*strides)?,
            }))),
            (function, _) => Err(odd(&format!("{function:?} has other arguments"))),
        }
    }

    /// `OrderedDict([(key, value), ...])`, as Python 2 wrote it.
    fn ordered_dict(&self, pairs: Value) -> Result<Made> {
        let no_pairs = || odd("OrderedDict has other arguments");
        let pairs = items(&self.heap, pairs).ok_or_else(no_pairs)?;
        self.count_copied(pairs.len())?;
        let mut entries = Vec::with_capacity(pairs.len());
        for pair in pairs {
            match items(&self.heap, *pair) {
                Some([key, value]) => entries.push((*key, *value)),
                Some(_) | None => return Err(no_pairs()),
            }
        }
        Ok(Made::Node(Node::Dict(entries)))
    }

    fn sizes(&self, value: Value) -> Result<Vec<usize>> {
        let items = items(&self.heap, value).ok_or_else(|| odd("a shape is no tuple"))?;
        self.count_copied(items.len())?;
        items.iter().map(|side| size(*side)).collect()
    }

    /// No honest pickle copies more than it has bytes.
    fn count_copied(&self, items: usize) -> Result<()> {
        let copied = self.copied.get() + items;
        self.copied.set(copied);
        if copied > self.bytes.len() {
            return Err(odd("it repeats itself without end"));
        }
        Ok(())
    }
}

enum Made {
    Node(Node),
    Value(Value),
}
