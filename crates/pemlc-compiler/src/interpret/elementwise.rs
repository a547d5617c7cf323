//! Operators that work value by value.

use super::broadcast::places;
use crate::ir::{Binary, Comparison, DType, Data, Op, Tensor, Unary};

pub(super) fn evaluate(op: &Op, inputs: &[&Tensor], shape: &[usize]) -> Result<Data, String> {
    let places: Vec<Vec<usize>> = inputs.iter().map(|input| places(input.shape(), shape)).collect();
    let data: Vec<&Data> = inputs.iter().map(|input| input.data()).collect();
    match (op, data.as_slice(), places.as_slice()) {
        (Op::Unary(function), [Data::F32(x)], _) => Ok(Data::F32(x.iter().map(|x| unary(*function, *x)).collect())),
        (Op::Cast { to }, [data], _) => cast(*to, data),
        (Op::Binary(function), [Data::F32(x), Data::F32(y)], [i, j]) => {
            Ok(Data::F32(zip(x, i, y, j, |x, y| binary_f32(*function, x, y))))
        }
        (Op::Binary(function), [Data::I64(x), Data::I64(y)], [i, j]) => {
            zip(x, i, y, j, |x, y| binary_i64(*function, x, y)).into_iter().collect::<Result<_, _>>().map(Data::I64)
        }
        (Op::Comparison(relation), [Data::F32(x), Data::F32(y)], [i, j]) => {
            Ok(Data::Bool(zip(x, i, y, j, |x, y| compare(*relation, &x, &y))))
        }
        (Op::Comparison(relation), [Data::I64(x), Data::I64(y)], [i, j]) => {
            Ok(Data::Bool(zip(x, i, y, j, |x, y| compare(*relation, &x, &y))))
        }
        (Op::And, [Data::Bool(x), Data::Bool(y)], [i, j]) => Ok(Data::Bool(zip(x, i, y, j, |x, y| x && y))),
        (Op::Where, [Data::Bool(c), Data::F32(x), Data::F32(y)], [h, i, j]) => Ok(Data::F32(select(c, h, x, i, y, j))),
        (Op::Where, [Data::Bool(c), Data::I64(x), Data::I64(y)], [h, i, j]) => Ok(Data::I64(select(c, h, x, i, y, j))),
        _ => Err("is not defined for these number types".to_owned()),
    }
}

fn zip<T: Copy, R>(x: &[T], i: &[usize], y: &[T], j: &[usize], function: impl Fn(T, T) -> R) -> Vec<R> {
    i.iter().zip(j).map(|(i, j)| function(x[*i], y[*j])).collect()
}

fn select<T: Copy>(c: &[bool], h: &[usize], x: &[T], i: &[usize], y: &[T], j: &[usize]) -> Vec<T> {
    h.iter().zip(i).zip(j).map(|((h, i), j)| if c[*h] { x[*i] } else { y[*j] }).collect()
}

fn unary(function: Unary, x: f32) -> f32 {
    match function {
        Unary::Cos => x.cos(),
        Unary::Erf => libm::erff(x),
        Unary::QuickGelu | Unary::Swish => x / (1.0 + (-x).exp()),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Sin => x.sin(),
        Unary::Sqrt => x.sqrt(),
        Unary::Tanh => x.tanh(),
    }
}

fn binary_f32(function: Binary, x: f32, y: f32) -> f32 {
    match function {
        Binary::Add => x + y,
        Binary::Div => x / y,
        Binary::Mul => x * y,
        Binary::Pow => x.powf(y),
        Binary::Sub => x - y,
    }
}

fn binary_i64(function: Binary, x: i64, y: i64) -> Result<i64, String> {
    let result = match function {
        Binary::Add => x.checked_add(y),
        Binary::Div => x.checked_div(y),
        Binary::Mul => x.checked_mul(y),
        Binary::Pow => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)),
        Binary::Sub => x.checked_sub(y),
    };
    result.ok_or_else(|| format!("{function:?} of {x} and {y} is not an i64"))
}

fn compare<T: PartialOrd>(relation: Comparison, x: &T, y: &T) -> bool {
    match relation {
        Comparison::Greater => x > y,
        Comparison::GreaterOrEqual => x >= y,
        Comparison::Less => x < y,
        Comparison::LessOrEqual => x <= y,
    }
}

fn cast(to: DType, data: &Data) -> Result<Data, String> {
    Ok(match (to, data) {
        (DType::F32, Data::F32(_)) | (DType::I64, Data::I64(_)) | (DType::Bool, Data::Bool(_)) => data.clone(),
        (DType::F32, Data::I64(x)) => Data::F32(x.iter().map(|x| *x as f32).collect()),
        (DType::F32, Data::Bool(x)) => Data::F32(x.iter().map(|x| f32::from(u8::from(*x))).collect()),
        (DType::I64, Data::F32(x)) => Data::I64(x.iter().map(|x| *x as i64).collect()),
        (DType::I64, Data::Bool(x)) => Data::I64(x.iter().map(|x| i64::from(*x)).collect()),
        (DType::Bool, Data::F32(x)) => Data::Bool(x.iter().map(|x| *x != 0.0).collect()),
        (DType::Bool, Data::I64(x)) => Data::Bool(x.iter().map(|x| *x != 0).collect()),
        _ => return Err(format!("no constant is held as {to}")),
    })
}
