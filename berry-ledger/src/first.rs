//! The first form of records and of rows, which is brought into today's.
//!
//! A journal that an earlier version left is read as it is. Rows lay in a table with a column for everything; they move, oldest
//! first, some thousand in a transaction, so that neither the log of the database nor its file grows by all of them at once. A
//! process that ends meanwhile leaves the others to the next.
//!
//! ```text
//! record = version u8, flags u8, time i64 LE, process varint, counter varint, status varint, duration varint, ttft option,
//!          cost option, texts: the client's request id, user, end user, labels, model, provider, upstream model, class of error;
//!          five options of usage, more bytes, attempts bytes
//! ```

use rustc_hash::FxHashMap;

use crate::record::{Input, Numbers, Rest, Shape, joined};
use crate::store::schema::{self, Request};
use crate::store::{Cells, Sql, StoreError, Value};

const VERSION: u8 = 1;

/// Rows that move in one transaction.
const STEP: usize = 5000;

/// Whether a record of the journal has this form.
pub(crate) fn is_record(bytes: &[u8]) -> bool {
    bytes.first() == Some(&VERSION)
}

/// A record in today's form. `None` when it is none.
pub(crate) fn record(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut input = Input(bytes);
    let version = input.byte()?;
    let flags = input.byte()?;
    let time_us = i64::from_le_bytes(input.take(8)?.try_into().ok()?);
    let (process, counter, status) = (input.number()?, input.number()?, u16::try_from(input.number()?).ok()?);
    let (duration_us, ttft_us, cost) = (input.number()?, input.option()?, input.option()?);
    let (client_request_id, user) = (input.text()?, input.text()?);
    let (end_user, labels) = (input.text()?, input.text()?);
    let (model, provider, upstream_model, error_class) = (input.text()?, input.text()?, input.text()?, input.text()?);
    let tokens = [input.option()?, input.option()?, input.option()?, input.option()?, input.option()?];
    let (more, attempts) = (input.bytes()?.unwrap_or_default(), input.bytes()?.unwrap_or_default());
    if version != VERSION || !input.0.is_empty() {
        return None;
    }
    let shape = Shape { flags, process, status, model, provider, upstream_model, error_class };
    let numbers = Numbers { counter, duration_us, ttft_us, cost, tokens };
    let rest = Rest { numbers, client_request_id, end_user, labels, more, attempts };
    Some(joined(time_us, &shape, user, &rest))
}

/// Moves some rows of the first table into today's. Whether there are more.
pub(crate) fn move_rows(sql: &mut dyn Sql) -> Result<bool, StoreError> {
    let text = format!(
        "SELECT id, user_id, process_id, model_id, provider_id, upstream_id, error_id, status, flags, counter, duration_us, \
         ttft_us, cost, input, cached, cache_write, output, reasoning, client_request_id, end_user, labels, more, attempts \
         FROM request_1 ORDER BY id LIMIT {STEP}"
    );
    let mut rows = Vec::new();
    sql.query(&text, &[], &mut |cells| {
        rows.push(row(cells)?);
        Ok(true)
    })?;
    let Some((last, ..)) = rows.last() else { return Ok(false) };
    let last = *last;
    let mut shapes = FxHashMap::<schema::Shape, i64>::default();
    let mut requests = Vec::with_capacity(rows.len());
    for (id, user, shape, rest) in &rows {
        let shape = match shapes.get(shape) {
            Some(known) => *known,
            None => *shapes.entry(*shape).or_insert(shape.id(sql)?),
        };
        requests.push(Request { id: *id, user: *user, shape, rest });
    }
    sql.insert_requests(&requests, &mut Vec::new())?;
    sql.execute("DELETE FROM request_1 WHERE id <= ?1", &[Value::Int(last)])?;
    Ok(true)
}

type Row = (i64, i64, schema::Shape, Vec<u8>);

fn row(cells: &dyn Cells) -> Result<Row, StoreError> {
    let number = |column| cells.int(column).map(Option::unwrap_or_default);
    let count = |column| cells.int(column).map(|number| number.map(i64::cast_unsigned));
    let shape = schema::Shape::read(cells, 2)?;
    let rest = Rest {
        numbers: Numbers {
            counter: number(9)?.cast_unsigned(),
            duration_us: number(10)?.cast_unsigned(),
            ttft_us: count(11)?,
            cost: count(12)?,
            tokens: [count(13)?, count(14)?, count(15)?, count(16)?, count(17)?],
        },
        client_request_id: cells.text(18)?,
        end_user: cells.text(19)?,
        labels: cells.text(20)?,
        more: cells.blob(21)?.unwrap_or_default(),
        attempts: cells.blob(22)?.unwrap_or_default(),
    };
    Ok((number(0)?, number(1)?, shape, rest.encode()))
}
