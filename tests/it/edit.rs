//! Edits of thoughts against a loop that runs the whole row anew for every latent, and what they leave alone.

use burn::tensor::Tensor;
use coconut::{
    latent::{
        self, Batch, Edit, ForwardOptions, LatentModel, Parallel, PassPlan, Places, ReadSet,
        Replacement, Trace, batch::Row,
    },
    model::{Cache, PassLayout, TokenInts, Transformer},
};
use coconut_kernels::TokenMask;

use crate::device;
use crate::torch::{distance, fixtures, thinking};

const LATENT: u32 = 40;
const ROWS: [&[u32]; 3] = [
    &[5, 6, 7, 38, LATENT, LATENT, LATENT, 39, 1, 2],
    &[8, 9, 38, LATENT, LATENT, 39, 4],
    &[3, 2, 4, 4, 1],
];

fn model() -> LatentModel {
    thinking(Transformer::load(&fixtures().join("latent"), &device()).unwrap())
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_into_vec().unwrap()
}

/// The last hidden state of every token of some rows, thoughts edited; and the trace.
fn run(model: &LatentModel, rows: &[&[u32]], edit: Option<&Edit>) -> (Vec<Vec<f32>>, Trace) {
    let rows: Vec<Row> = rows.iter().map(|ids| Row::unlabelled(ids)).collect();
    let batch = Batch::new(&rows, &PassPlan::sequential(LATENT)).unwrap();
    let options = ForwardOptions { reads: ReadSet::ALL, edit, ..ForwardOptions::default() };
    let trace = latent::forward(model, &batch, options);
    let of_row = |row| {
        let tokens: Vec<_> = batch.columns_of(row).iter().map(|&column| (row, column)).collect();
        numbers(trace.last_hidden(&batch, &tokens).unwrap())
    };
    ((0..rows.len()).map(of_row).collect(), trace)
}

/// The same of one row without cache, passes and batch: `feed` gives what thought `index` is fed.
fn by_hand(
    model: &LatentModel,
    ids: &[u32],
    feed: impl Fn(usize, Tensor<3>) -> Tensor<3>,
) -> Vec<f32> {
    let transformer = &model.transformer;
    let hidden = |embeddings: &[Tensor<3>]| {
        let n = embeddings.len();
        let layout = PassLayout::whole(
            TokenInts::new((0..n as i32).collect(), [1, n]),
            TokenMask::all(1, n),
        );
        let cache = Cache::new(transformer.config.n_layer);
        transformer.forward(Tensor::cat(embeddings.to_vec(), 1), &cache, &layout, None).0.last()
    };
    let (mut embeddings, mut thoughts) = (Vec::new(), 0);
    for &id in ids {
        embeddings.push(match id {
            LATENT => {
                thoughts += 1;
                feed(thoughts - 1, hidden(&embeddings).narrow(1, embeddings.len() - 1, 1))
            }
            id => transformer.embed(Tensor::from_data([[id as i32]], &device())),
        });
    }
    numbers(hidden(&embeddings))
}

#[test]
fn zero_at_the_second_thought_is_zero_fed_by_hand() {
    let model = model();
    let edit = Edit { places: Places::One(1), replacement: Replacement::Zero };
    let (plain, _) = run(&model, &ROWS, None);
    let (ours, trace) = run(&model, &ROWS, Some(&edit));
    assert_eq!(trace.edited, [(0, 1), (1, 1)], "the third row has no thoughts");
    for ((ids, ours), plain) in ROWS.iter().zip(&ours).zip(&plain) {
        assert!(distance(plain, &by_hand(&model, ids, |_, thought| thought)) < 1e-5);
        let zero =
            |index, thought: Tensor<3>| if index == 1 { thought.zeros_like() } else { thought };
        assert!(distance(ours, &by_hand(&model, ids, zero)) < 1e-5);
    }
    assert!(distance(&ours[0], &plain[0]) > 1e-3, "and that is something else");
    assert_eq!(ours[2], plain[2]);
}

#[test]
fn a_patch_leaves_the_rows_mates_alone_to_the_last_bit() {
    let model = model();
    let (plain, clean) = run(&model, &ROWS, None);
    let value = numbers(clean.thoughts[1].clone().unwrap().narrow(0, 1, 1));
    let value: Tensor<1> = Tensor::from_data(value.as_slice(), &device());
    let thoughts = value.clone().unsqueeze::<3>().expand([3, 3, 16]);
    let replacement = Replacement::Given { thoughts: Box::new(thoughts), counts: vec![3, 0, 0] };
    let (ours, trace) = run(&model, &ROWS, Some(&Edit { places: Places::One(2), replacement }));
    assert_eq!(trace.edited, [(0, 2)]);
    assert_eq!(ours[1..], plain[1..]);
    let patched = |index, thought| if index == 2 { value.clone().unsqueeze() } else { thought };
    assert!(distance(&ours[0], &by_hand(&model, ROWS[0], patched)) < 1e-5);
    // The third thought stands at position 6: what is before is as it was.
    assert_eq!(ours[0][..6 * 16], plain[0][..6 * 16]);
    assert!(distance(&ours[0], &plain[0]) > 1e-3);
}

#[test]
fn a_rows_own_thoughts_transplanted_change_no_bit() {
    let model = model();
    let (plain, clean) = run(&model, &ROWS, None);
    let own = Tensor::cat(clean.thoughts.iter().flatten().cloned().collect(), 1); // [batch, 3, d_model]
    let transplant = |thoughts: Tensor<3>, places| {
        let counts = vec![thoughts.dims()[1]; 3];
        let replacement = Replacement::Given { thoughts: Box::new(thoughts), counts };
        run(&model, &ROWS, Some(&Edit { places, replacement }))
    };
    let (ours, trace) = transplant(own.clone(), Places::All);
    assert_eq!(ours, plain);
    assert_eq!(trace.edited, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]);
    // In another order it is the row's own thoughts permuted; two of them reach two places only.
    let turned = own.clone().flip([1]);
    let (ours, _) = transplant(turned.clone(), Places::All);
    let fed = |index, _| turned.clone().narrow(0, 0, 1).narrow(1, index, 1);
    assert!(distance(&ours[0], &by_hand(&model, ROWS[0], fed)) < 1e-5);
    let (_, trace) = transplant(own.narrow(1, 0, 2), Places::Last(2));
    assert_eq!(trace.edited, [(0, 1), (1, 0), (1, 1)]);
}

#[test]
fn a_row_that_is_given_nothing_is_not_touched() {
    let model = model();
    let (plain, _) = run(&model, &ROWS, None);
    let thoughts = Tensor::ones([3, 3, 16], &device());
    let replacement = Replacement::Given { thoughts: Box::new(thoughts), counts: vec![1, 0, 3] };
    let (ours, trace) = run(&model, &ROWS, Some(&Edit { places: Places::All, replacement }));
    assert_eq!(trace.edited, [(0, 0)]);
    assert_eq!(ours[1..], plain[1..]);
}

/// Whatever is edited, passes before it are taken from the trace without an edit, and the rest comes out the same to
/// the last bit; thinking in parallel too.
#[test]
fn after_a_plain_trace_only_what_an_edit_changes_is_computed() {
    let model = model();
    let parallel = |iterations| Parallel { iterations, shift: true, residual: false };
    let plans = [
        PassPlan::sequential(LATENT),
        PassPlan::parallel(LATENT, parallel(2)),
        PassPlan::parallel(LATENT, parallel(0)),
    ];
    for plan in plans {
        let rows: Vec<Row> = ROWS.iter().map(|ids| Row::unlabelled(ids)).collect();
        let batch = Batch::new(&rows, &plan).unwrap();
        let plain = latent::forward(&model, &batch, ReadSet::ALL);
        let all = |trace: &Trace| -> Vec<f32> {
            let states = trace.hidden.iter().flat_map(|states| numbers(states.last()));
            let ends = numbers(trace.ends(&batch).unwrap());
            let cached = trace.caches[0].layer(1).iter().flat_map(|x| numbers(x.clone()));
            states.chain(ends).chain(cached).collect()
        };
        let zero = |places| Edit { places, replacement: Replacement::Zero };
        let noise = Replacement::Noise { scale: 1.0, seeds: vec![1, 2, 3] };
        let question = Edit { places: Places::Question, replacement: noise };
        for edit in [
            zero(Places::All),
            zero(Places::One(1)),
            zero(Places::One(7)),
            zero(Places::Last(1)),
            question,
        ] {
            let options = ForwardOptions {
                reads: ReadSet::ALL,
                edit: Some(&edit),
                ..ForwardOptions::default()
            };
            let whole = latent::forward(&model, &batch, options);
            let ours = latent::forward_edited(&model, &batch, ReadSet::ALL, &edit, &plain);
            assert_eq!(ours.edited, whole.edited, "{plan:?} {edit:?}");
            assert!(all(&ours) == all(&whole), "{plan:?} {edit:?}");
            let changes = edit.is_of_question() || !whole.edited.is_empty();
            assert_eq!(all(&ours) != all(&plain), changes, "{plan:?} {edit:?}");
        }
    }
}

#[test]
fn noise_on_the_question_is_noise_on_its_embeddings_by_hand() {
    let model = model();
    let seeds = vec![5, 6, 7];
    let replacement = Replacement::Noise { scale: 0.5, seeds };
    let edit = Edit { places: Places::Question, replacement };
    let (ours, trace) = run(&model, &ROWS, Some(&edit));
    assert!(trace.edited.is_empty(), "no thought was touched");
    // The batch is laid out without padding, a row alone is not: the draws are the row's own.
    for (row, seed) in [5, 6, 7].into_iter().enumerate() {
        let replacement = Replacement::Noise { scale: 0.5, seeds: vec![seed] };
        let edit = Edit { places: Places::Question, replacement };
        let (alone, _) = run(&model, &ROWS[row..row + 1], Some(&edit));
        assert!(distance(&ours[row], &alone[0]) < 1e-5);
    }
    let (plain, _) = run(&model, &ROWS, None);
    assert!((0..2).all(|row| distance(&ours[row], &plain[row]) > 1e-3));
    assert_eq!(ours[2], plain[2], "a row without thoughts");
}
