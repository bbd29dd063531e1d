//! What the fuzzer starts from: one whole input of each kind that the data path may meet.

use crate::answers;
use crate::film::Films;
use crate::image_file::{Painter, Style};
use crate::storm::Storm;

/// Answers of the API.
pub(super) fn api_answers() -> Vec<Vec<u8>> {
    let films = Films::new(1, 40);
    let mut answers: Vec<Vec<u8>> = (0..8)
        .map(|at| answers::movie(&films.film_at(at)).to_string().into_bytes())
        .collect();
    let listed: Vec<_> = (0..5).map(|at| films.listed_at(at)).collect();
    let others = [
        answers::configuration("http://127.0.0.1/t/p/", &films, 1, 0.8),
        answers::genre_list(),
        answers::page(&listed, 1, 3, 50),
        answers::changes_page(&listed, 1, 3, 250),
        answers::problem(34, "The resource you requested could not be found."),
    ];
    answers.extend(
        others
            .into_iter()
            .map(|answer| answer.to_string().into_bytes()),
    );
    answers
}

/// Posters of every kind.
pub(super) fn pictures() -> Vec<Vec<u8>> {
    // A large file would take most of a run's time and teach nothing that a small one does not.
    const FILE_MAX_BYTES: usize = 60_000;
    let painter = Painter {
        films: Films::new(1, 150),
        storm: Some(Storm {
            seed: 1,
            share: 1.0,
        }),
        style: Style::Sketch,
    };
    (0..150)
        .map(|position| painter.file(position, 92).bytes)
        .filter(|file| file.len() < FILE_MAX_BYTES)
        .collect()
}

/// Checkpoints that PyTorch wrote, honest and hostile, and what is in them as safetensors.
pub(super) fn weights() -> Vec<Vec<u8>> {
    let files: [&[u8]; 9] = [
        include_bytes!("../../../weights/tests/files/zip.pth"),
        include_bytes!("../../../weights/tests/files/legacy.pth"),
        include_bytes!("../../../weights/tests/files/training.pth"),
        include_bytes!("../../../weights/tests/files/norm.pth"),
        include_bytes!("../../../weights/tests/files/model.pth"),
        include_bytes!("../../../weights/tests/files/evil.pth"),
        include_bytes!("../../../weights/tests/files/evil_legacy.pth"),
        include_bytes!("../../../weights/tests/files/expected.safetensors"),
        // A stranger's object, its attributes, and a call of what a call returned.
        b"\x80\x02}(X\x04\0\0\0argscargparse\nNamespace\n)\x81}X\x01\0\0\0aK\x01sbX\x01\0\0\0bcx\ny\n)R)Ru.",
    ];
    files.map(<[u8]>::to_vec).to_vec()
}
