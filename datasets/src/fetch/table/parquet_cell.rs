//! A cell of a Parquet column, whichever of its many layouts a program chose: texts large, small and by
//! view, dictionaries of them (pandas' categories, polars' enums), bytes, numbers, decimals, UUIDs, and
//! lists of all these.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::Cell;

/// The cell of `column` in `row`. `names` are those of a column of class numbers, if it is one.
pub(super) fn cell_at(column: &dyn Array, row: usize, names: &[String]) -> Cell {
    // An array of type Null has no bitmap, and so says of none of its rows that it is null.
    if column.is_null(row) || column.data_type() == &DataType::Null {
        return Cell::Empty;
    }
    if let Some(dictionary) = column.as_any_dictionary_opt() {
        let key = whole_at(dictionary.keys(), row).and_then(|key| usize::try_from(key).ok());
        return match key {
            Some(key) if key < dictionary.values().len() => {
                cell_at(dictionary.values(), key, names)
            }
            Some(_) | None => Cell::Odd("dictionary with a key outside".to_owned()),
        };
    }
    if let Some(number) = whole_at(column, row) {
        return class_of(number, names);
    }
    if let Some(text) = text_at(column, row) {
        return Cell::of_text(&text);
    }
    match items_at(column, row) {
        Some(items) => list_of(&items, names),
        None => Cell::Odd(column.data_type().to_string()),
    }
}

/// The same of a column of UUIDs, in the form that everybody writes them in.
pub(super) fn uuid_at(column: &dyn Array, row: usize) -> Cell {
    if column.is_null(row) {
        return Cell::Empty;
    }
    let bytes = column.as_fixed_size_binary_opt().map(|all| all.value(row));
    let Some(bytes) = bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()) else {
        return Cell::Odd(column.data_type().to_string());
    };
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    Cell::Text(parts.join("-"))
}

fn list_of(items: &dyn Array, names: &[String]) -> Cell {
    let mut texts = Vec::with_capacity(items.len());
    for at in 0..items.len() {
        match cell_at(items, at, names) {
            Cell::Empty => {}
            Cell::Text(text) => texts.push(text),
            Cell::List(_) => return Cell::Odd("list of lists".to_owned()),
            Cell::Odd(kind) => return Cell::Odd(format!("list of {kind}")),
        }
    }
    Cell::List(texts)
}

/// A number, or the class that it stands for; -1 stands for none.
fn class_of(number: i128, names: &[String]) -> Cell {
    if names.is_empty() {
        return Cell::Text(number.to_string());
    }
    if number == -1 {
        return Cell::Empty;
    }
    let name = usize::try_from(number).ok().and_then(|at| names.get(at));
    match name {
        Some(name) => Cell::of_text(name),
        None => Cell::Odd(format!("class number {number} of {} classes", names.len())),
    }
}

/// A whole number, of whichever width.
fn whole_at(column: &dyn Array, row: usize) -> Option<i128> {
    macro_rules! first_of {
        ($($kind:ty),*) => {
            $(if let Some(numbers) = column.as_primitive_opt::<$kind>() {
                return Some(i128::from(numbers.value(row)));
            })*
        };
    }
    first_of!(
        Int64Type, Int32Type, Int16Type, Int8Type, UInt64Type, UInt32Type, UInt16Type, UInt8Type
    );
    None
}

/// What is no whole number and stands for one text.
fn text_at(column: &dyn Array, row: usize) -> Option<String> {
    let of_bytes = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    // pandas makes floats of whole numbers as soon as one is missing.
    let of_float = |number: f64| match number {
        number if number.is_nan() => String::new(),
        number => number.to_string(),
    };
    if let Some(texts) = column.as_string_opt::<i32>() {
        Some(texts.value(row).to_owned())
    } else if let Some(texts) = column.as_string_opt::<i64>() {
        Some(texts.value(row).to_owned())
    } else if let Some(texts) = column.as_string_view_opt() {
        Some(texts.value(row).to_owned())
    } else if let Some(flags) = column.as_boolean_opt() {
        Some(flags.value(row).to_string())
    } else if let Some(numbers) = column.as_primitive_opt::<Float64Type>() {
        Some(of_float(numbers.value(row)))
    } else if let Some(numbers) = column.as_primitive_opt::<Float32Type>() {
        Some(of_float(f64::from(numbers.value(row))))
    } else if let Some(numbers) = column.as_primitive_opt::<Decimal128Type>() {
        Some(numbers.value_as_string(row))
    } else if let Some(numbers) = column.as_primitive_opt::<Decimal256Type>() {
        Some(numbers.value_as_string(row))
    } else if let Some(bytes) = column.as_binary_opt::<i32>() {
        of_bytes(bytes.value(row))
    } else if let Some(bytes) = column.as_binary_opt::<i64>() {
        of_bytes(bytes.value(row))
    } else if let Some(bytes) = column.as_binary_view_opt() {
        of_bytes(bytes.value(row))
    } else if let Some(bytes) = column.as_fixed_size_binary_opt() {
        of_bytes(bytes.value(row))
    } else {
        None
    }
}

fn items_at(column: &dyn Array, row: usize) -> Option<arrow::array::ArrayRef> {
    if let Some(lists) = column.as_list_opt::<i32>() {
        Some(lists.value(row))
    } else if let Some(lists) = column.as_list_opt::<i64>() {
        Some(lists.value(row))
    } else if let Some(lists) = column.as_fixed_size_list_opt() {
        Some(lists.value(row))
    } else if let Some(lists) = column.as_list_view_opt::<i32>() {
        Some(lists.value(row))
    } else if let Some(lists) = column.as_list_view_opt::<i64>() {
        Some(lists.value(row))
    } else {
        None
    }
}
