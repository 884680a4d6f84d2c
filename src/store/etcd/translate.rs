//! Our words in etcd's, and back.

use bytes::Bytes;
use etcd_client::{
    Compare as EtcdCompare, CompareOp as EtcdCompareOp, DeleteOptions, PutOptions, Txn as EtcdTxn, TxnOp,
    proto::{PbEvent, PbKeyValue, PbTxnOpResponse, PbTxnResponse},
};

use crate::store::{Compare, CompareOp, Event, KeyValue, LeaseId, Op, OpAnswer, StoreError, Txn, TxnAnswer};

/// The first key of a range; etcd allows no empty one.
pub(super) fn start(key: &str) -> Vec<u8> {
    if key.is_empty() { vec![0] } else { key.as_bytes().to_vec() }
}

/// The end of a range. Empty, it would mean a single key to etcd; one zero byte means no end.
pub(super) fn end(key: &str) -> Vec<u8> {
    start(key)
}

pub(super) fn key_value(kv: PbKeyValue) -> KeyValue {
    KeyValue {
        key: key(kv.key),
        value: Bytes::from(kv.value),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: (kv.lease != 0).then_some(LeaseId(kv.lease)),
    }
}

/// Foreign keys need not be UTF-8; ours are.
fn key(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

pub(super) fn event(event: PbEvent) -> Option<Event> {
    let kv = event.kv?;
    // A deletion carries the key and its revision alone; a put has a version of at least 1.
    Some(match kv.version {
        0 => Event::Deleted { key: key(kv.key), mod_revision: kv.mod_revision },
        _ => Event::Put(key_value(kv)),
    })
}

pub(super) fn request(txn: &Txn) -> EtcdTxn {
    EtcdTxn::new()
        .when(txn.compares.iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.then.iter().map(operation).collect::<Vec<_>>())
        .or_else(txn.otherwise.iter().map(operation).collect::<Vec<_>>())
}

fn compare(compare: &Compare) -> EtcdCompare {
    match compare {
        Compare::ModRevision(key, op, than) => {
            EtcdCompare::mod_revision(key.as_str(), compare_op(*op), *than)
        }
        Compare::CreateRevision(key, op, than) => {
            EtcdCompare::create_revision(key.as_str(), compare_op(*op), *than)
        }
        Compare::Version(key, op, than) => EtcdCompare::version(key.as_str(), compare_op(*op), *than),
        Compare::Value(key, op, than) => EtcdCompare::value(key.as_str(), compare_op(*op), than.to_vec()),
    }
}

fn compare_op(op: CompareOp) -> EtcdCompareOp {
    match op {
        CompareOp::Equal => EtcdCompareOp::Equal,
        CompareOp::NotEqual => EtcdCompareOp::NotEqual,
        CompareOp::Greater => EtcdCompareOp::Greater,
        CompareOp::Less => EtcdCompareOp::Less,
    }
}

fn operation(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_str(), value.to_vec(), options)
        }
        Op::Delete { key } => TxnOp::delete(key.as_str(), None),
        Op::DeleteRange { start: from, end: to } => {
            TxnOp::delete(start(from), Some(DeleteOptions::new().with_range(end(to))))
        }
        Op::Get { key } => TxnOp::get(key.as_str(), None),
    }
}

/// The answer of a transaction, which has been done.
pub(super) fn txn_answer(answer: PbTxnResponse) -> Result<TxnAnswer, StoreError> {
    let mut answers = Vec::with_capacity(answer.responses.len());
    for response in answer.responses {
        answers.push(match response.response {
            Some(PbTxnOpResponse::ResponsePut(_)) => OpAnswer::Put,
            Some(PbTxnOpResponse::ResponseDeleteRange(deleted)) => OpAnswer::Deleted(deleted.deleted),
            Some(PbTxnOpResponse::ResponseRange(mut range)) => OpAnswer::Got(range.kvs.pop().map(key_value)),
            Some(PbTxnOpResponse::ResponseTxn(_)) | None => {
                return Err(StoreError::Unknown {
                    why: "etcd answered an operation that was not asked".into(),
                });
            }
        });
    }
    let revision = answer.header.map_or(0, |header| header.revision);
    Ok(TxnAnswer { succeeded: answer.succeeded, revision, answers })
}
