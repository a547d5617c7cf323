//! Operators that move, join, cut and repeat.

use super::dim::Dim;
use super::fact::{Fact, MAX_RANK, axis_index, product};
use super::operators::{broadcast_shapes, integers};
use super::walk::Call;

/// Facts of the outputs, if the operator is one of these.
pub(super) fn infer(call: Call<'_>, inputs: &[Option<Fact>]) -> Option<Vec<Fact>> {
    let input = |place: usize| inputs.get(place).cloned().flatten().unwrap_or_default();
    let first = input(0);
    let shape = first.shape.as_deref();
    // Axes are an attribute in old opsets and an input in new ones.
    let axes = || call.ints("axes").map(<[i64]>::to_vec).or_else(|| integers(&input(1)));
    let new = match call.node.operator.as_str() {
        "Reshape" => {
            return Some(vec![Fact::new(first.dtype, reshape(call, &first, &input(1))).holding(contents(&first))]);
        }
        "Flatten" => shape.and_then(|shape| {
            let axis = call.int("axis").unwrap_or(1);
            let axis = if axis == shape.len() as i64 { shape.len() } else { axis_index(axis, shape.len())? };
            Some(vec![product(&shape[..axis]), product(&shape[axis..])])
        }),
        "Transpose" => shape.and_then(|shape| match call.ints("perm") {
            None => Some(shape.iter().rev().cloned().collect()),
            Some(order) => order.iter().map(|axis| Some(shape.get(usize::try_from(*axis).ok()?)?.clone())).collect(),
        }),
        "Unsqueeze" => {
            let dims = shape.zip(axes()).and_then(|(shape, axes)| unsqueeze(shape, &axes));
            return Some(vec![Fact::new(first.dtype, dims).holding(contents(&first))]);
        }
        "Squeeze" => {
            let given = call.ints("axes").is_some() || inputs.get(1).is_some_and(Option::is_some);
            let dims = shape.and_then(|shape| squeeze(shape, if given { Some(axes()?) } else { None }));
            return Some(vec![Fact::new(first.dtype, dims).holding(contents(&first))]);
        }
        "Concat" => return Some(vec![concat(call, inputs)]),
        "Gather" => return Some(vec![gather(call, &first, &input(1))]),
        "GatherElements" => input(1).shape.as_deref().map(<[Dim]>::to_vec),
        "Slice" => return Some(vec![slice(call, &first, inputs)]),
        "Split" => return Some(split(call, &first, &input(1))),
        "Expand" => {
            let target = input(1).contents;
            shape.zip(target.as_deref()).and_then(|(shape, target)| broadcast_shapes(&[shape, target]))
        }
        "Tile" => {
            let repeats = input(1).contents;
            shape
                .zip(repeats.as_deref())
                .filter(|(shape, repeats)| shape.len() == repeats.len())
                .map(|(shape, repeats)| shape.iter().zip(repeats).map(|(dim, times)| dim.times(times)).collect())
        }
        _ => return None,
    };
    Some(vec![Fact::new(first.dtype, new)])
}

fn contents(fact: &Fact) -> Option<Vec<Dim>> {
    fact.contents.as_deref().map(<[Dim]>::to_vec)
}

fn reshape(call: Call<'_>, from: &Fact, target: &Fact) -> Option<Vec<Dim>> {
    let attribute = call.ints("shape").map(|sizes| sizes.iter().copied().map(Dim::Fixed).collect::<Vec<_>>());
    let Some(target) = target.contents.as_deref().map(<[Dim]>::to_vec).or(attribute) else {
        let rank = target.shape.as_deref()?.first()?.fixed()?;
        return (0..=32).contains(&rank).then(|| vec![Dim::Unknown; rank as usize]);
    };
    let keeps_zero = call.int("allowzero").unwrap_or(0) != 0;
    let mut result: Vec<Dim> = Vec::with_capacity(target.len());
    // Dimensions that are kept need not be known for what is left to be.
    let mut kept = Vec::new();
    for (place, size) in target.iter().enumerate() {
        if *size == Dim::Fixed(0) && !keeps_zero {
            kept.push(place);
            result.push(from.shape.as_deref().and_then(|shape| shape.get(place)).cloned().unwrap_or_default());
        } else {
            result.push(size.clone());
        }
    }
    if let Some(open) = target.iter().position(|size| *size == Dim::Fixed(-1)) {
        let left = |dims: &[Dim]| {
            dims.iter()
                .enumerate()
                .filter(|(place, _)| !kept.contains(place))
                .map(|(_, dim)| dim.clone())
                .collect::<Vec<_>>()
        };
        let given: Vec<Dim> = result
            .iter()
            .enumerate()
            .filter(|(place, _)| *place != open && !kept.contains(place))
            .map(|(_, dim)| dim.clone())
            .collect();
        let all = from.shape.as_deref().map_or(Dim::Unknown, |shape| product(&left(shape)));
        result[open] = all.divided_by(&product(&given));
    }
    Some(result)
}

fn unsqueeze(shape: &[Dim], axes: &[i64]) -> Option<Vec<Dim>> {
    let rank = shape.len().checked_add(axes.len()).filter(|rank| *rank <= MAX_RANK)?;
    let axes: Vec<usize> = axes.iter().map(|axis| axis_index(*axis, rank)).collect::<Option<_>>()?;
    let mut old = shape.iter();
    let dim = |axis| if axes.contains(&axis) { Some(Dim::Fixed(1)) } else { old.next().cloned() };
    (0..rank).map(dim).collect()
}

fn squeeze(shape: &[Dim], axes: Option<Vec<i64>>) -> Option<Vec<Dim>> {
    let gone: Vec<usize> = match axes {
        Some(axes) => axes.iter().map(|axis| axis_index(*axis, shape.len())).collect::<Option<_>>()?,
        // All that are 1: which ones is known only when all are.
        None if shape.iter().all(|dim| dim.fixed().is_some()) => {
            (0..shape.len()).filter(|axis| shape[*axis] == Dim::Fixed(1)).collect()
        }
        None => return None,
    };
    Some(shape.iter().enumerate().filter(|(axis, _)| !gone.contains(axis)).map(|(_, dim)| dim.clone()).collect())
}

fn concat(call: Call<'_>, inputs: &[Option<Fact>]) -> Fact {
    let facts: Vec<&Fact> = inputs.iter().flatten().collect();
    let dtype = facts.iter().map(|fact| fact.dtype).find(|dtype| dtype.0 != 0).unwrap_or_default();
    let shapes: Option<Vec<&[Dim]>> = facts.iter().map(|fact| fact.shape.as_deref()).collect();
    let dims = shapes.and_then(|shapes| {
        let (head, tail) = shapes.split_first()?;
        let axis = axis_index(call.int("axis")?, head.len())?;
        let mut result = head.to_vec();
        for shape in tail.iter().filter(|shape| shape.len() == head.len()) {
            for (place, dim) in shape.iter().enumerate() {
                if place == axis {
                    result[place] = result[place].plus(dim);
                } else if result[place].fixed().is_none() && (dim.fixed().is_some() || !result[place].is_known()) {
                    result[place] = dim.clone();
                }
            }
        }
        tail.iter().all(|shape| shape.len() == head.len()).then_some(result)
    });
    let held: Option<Vec<&[Dim]>> = facts.iter().map(|fact| fact.contents.as_deref()).collect();
    let held = held.filter(|held| held.iter().map(|held| held.len()).sum::<usize>() <= 64).map(|held| held.concat());
    Fact::new(dtype, dims).holding(held)
}

fn gather(call: Call<'_>, data: &Fact, indices: &Fact) -> Fact {
    let axis = call.int("axis").unwrap_or(0);
    let dims = data.shape.as_deref().zip(indices.shape.as_deref()).and_then(|(shape, indices)| {
        let axis = axis_index(axis, shape.len())?;
        Some([&shape[..axis], indices, &shape[axis + 1..]].concat())
    });
    let held = data.contents.as_deref().zip(integers(indices)).and_then(|(held, places)| {
        places.iter().map(|place| held.get(axis_index(*place, held.len())?).cloned()).collect()
    });
    Fact::new(data.dtype, dims).holding(held)
}

fn slice(call: Call<'_>, data: &Fact, inputs: &[Option<Fact>]) -> Fact {
    let given = |name: &str, place: usize| {
        let own = call.ints(name).map(|values| values.iter().copied().map(Dim::Fixed).collect::<Vec<_>>());
        own.or_else(|| Some(inputs.get(place)?.as_ref()?.contents.as_deref()?.to_vec()))
    };
    let (Some(starts), Some(ends)) = (given("starts", 1), given("ends", 2)) else {
        return Fact::new(data.dtype, data.shape.as_deref().map(|shape| vec![Dim::Unknown; shape.len()]));
    };
    let has_steps = inputs.get(4).is_some_and(Option::is_some);
    let steps = given("steps", 4);
    let axes = given("axes", 3).unwrap_or_else(|| (0..starts.len() as i64).map(Dim::Fixed).collect());
    let mut shape = data.shape.as_deref().map(<[Dim]>::to_vec);
    let mut held = data.contents.as_deref().map(<[Dim]>::to_vec);
    for (place, axis) in axes.iter().enumerate() {
        let Some(axis) = axis.fixed().and_then(|axis| axis_index(axis, data.rank()?)) else {
            return Fact { dtype: data.dtype, ..Fact::default() };
        };
        let size = data.dim(axis as i64);
        let unit = !has_steps || steps.as_ref().and_then(|steps| steps.get(place)) == Some(&Dim::Fixed(1));
        let bounds = starts.get(place).zip(ends.get(place)).filter(|_| unit);
        let new = bounds.and_then(|(start, end)| Some((bound(start, &size)?, bound(end, &size)?)));
        if let (Some(held), Some((Dim::Fixed(start), Dim::Fixed(end)))) = (&mut held, &new) {
            let range = usize::try_from(*start).unwrap_or(0)..usize::try_from(*end).unwrap_or(0);
            *held = held.get(range).unwrap_or_default().to_vec();
        } else {
            held = None;
        }
        if let Some(dim) = shape.as_mut().and_then(|shape| shape.get_mut(axis)) {
            *dim = match new {
                Some((Dim::Fixed(start), Dim::Fixed(end))) => Dim::Fixed(end.saturating_sub(start).max(0)),
                Some((start, end)) => end.minus(&start),
                None => Dim::Unknown,
            };
        }
    }
    Fact::new(data.dtype, shape).holding(held)
}

/// A bound of a slice as a place from the start, inside `size` as far as that is known.
fn bound(value: &Dim, size: &Dim) -> Option<Dim> {
    match (value, size) {
        (Dim::Unknown, _) => None,
        (Dim::Fixed(value), Dim::Fixed(size)) => {
            let from_start = if *value < 0 { value.saturating_add(*size) } else { *value };
            Some(Dim::Fixed(from_start.clamp(0, *size)))
        }
        // As exporters write "to the end".
        (Dim::Fixed(value), size) if *value >= i64::from(i32::MAX) => Some(size.clone()),
        (Dim::Fixed(value), size) if *value < 0 => Some(size.plus(&Dim::Fixed(*value))),
        (value, _) => Some(value.clone()),
    }
}

fn split(call: Call<'_>, data: &Fact, sizes: &Fact) -> Vec<Fact> {
    let count = call.node.outputs.len();
    let axis = call.int("axis").unwrap_or(0);
    let sizes: Option<Vec<Dim>> =
        call.ints("split").map(|sizes| sizes.iter().copied().map(Dim::Fixed).collect()).or_else(|| contents(sizes));
    let equal = data.dim(axis).divided_by(&Dim::Fixed(count as i64));
    let part = |place: usize| {
        let mut shape = data.shape.as_deref()?.to_vec();
        let axis = axis_index(axis, shape.len())?;
        shape[axis] =
            sizes.as_ref().map_or_else(|| equal.clone(), |sizes| sizes.get(place).cloned().unwrap_or_default());
        Some(shape)
    };
    // A long list of outputs costs no more than the file that lists them.
    (0..count).map(|place| Fact::new(data.dtype, part(place))).collect()
}
