//! Columns against a plain list of byte strings.

use bytes::Bytes;
use farm_proto::columns::{Columns, ColumnsBuilder};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::examples;

fn built(items: &[Vec<u8>]) -> Columns {
    let mut builder = ColumnsBuilder::new();
    items.iter().for_each(|item| builder.push(item));
    builder.finish()
}

fn items() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(any::<u8>(), 0..12), 0..24)
}

/// Everything that can be asked of columns is as the list says.
fn check(columns: &Columns, model: &[Vec<u8>]) {
    assert_eq!(columns.len(), model.len());
    assert_eq!(columns.is_empty(), model.is_empty());
    assert!(columns.iter().eq(model));
    assert!((0..model.len()).all(|index| columns.get(index) == model[index]));
    assert_eq!(columns.bytes()[..], model.concat());
    let encoded = columns.encode();
    assert_eq!(encoded.len(), columns.encoded_len());
    let read = Columns::decode(model.len() as u64, encoded.clone()).expect("columns that were just made");
    assert_eq!(&read, columns);
    assert_eq!(read.encode(), encoded);
    assert_eq!(columns, &built(model));
}

/// Two of the places between `len` items, in order.
fn ordered(len: usize, one: &Index, other: &Index) -> (usize, usize) {
    let (one, other) = (one.index(len + 1), other.index(len + 1));
    (one.min(other), one.max(other))
}

proptest! {
    #![proptest_config(examples(1024))]

    #[test]
    fn columns_are_the_items_they_were_made_of(items in items()) {
        let mut builder = ColumnsBuilder::new();
        for (index, item) in items.iter().enumerate() {
            prop_assert_eq!((builder.len(), builder.is_empty()), (index, index == 0));
            builder.item().extend_from_slice(item);
            builder.end_item();
        }
        prop_assert_eq!(builder.bytes_len(), items.concat().len());
        check(&builder.finish(), &items);
        prop_assert!(builder.is_empty() && builder.finish().is_empty());
    }

    #[test]
    fn slices_of_slices_are_slices_of_the_list(items in items(), cuts in vec(any::<[Index; 2]>(), 1..5)) {
        // Both what was built and what was read, which share their bytes differently.
        let made = built(&items);
        let read = Columns::decode(items.len() as u64, made.encode()).expect("columns that were just made");
        for mut columns in [made, read] {
            let mut model = &items[..];
            for [one, other] in &cuts {
                let (from, to) = ordered(model.len(), one, other);
                columns = columns.slice(from, to);
                model = &model[from..to];
                check(&columns, model);
            }
        }
    }

    #[test]
    fn different_items_make_different_columns(items in items(), others in items()) {
        prop_assert_eq!(built(&items) == built(&others), items == others);
    }

    #[test]
    fn whatever_is_taken_for_columns_is_columns(count in 0..6u64, bytes in vec(0..6u8, 0..40)) {
        if let Ok(columns) = Columns::decode(count, Bytes::from(bytes.clone())) {
            let items: Vec<_> = columns.iter().map(<[u8]>::to_vec).collect();
            prop_assert_eq!(items.len() as u64, count);
            check(&columns, &items);
            prop_assert_eq!(columns.encode(), bytes);
        }
    }

    #[test]
    fn any_count_and_bytes_are_read_or_refused(count: u64, bytes: Vec<u8>) {
        prop_assert!(Columns::decode(count, bytes.into()).is_err() || count == 0 || count < 1 << 20);
    }

    #[test]
    fn columns_that_were_cut_off_are_refused(items in items(), cut: Index) {
        let whole = built(&items).encode();
        if !whole.is_empty() {
            let cut = whole.slice(..cut.index(whole.len()));
            prop_assert!(Columns::decode(items.len() as u64, cut).is_err());
        }
    }
}
