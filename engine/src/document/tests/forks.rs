//! Documents in which chains have forked: every peer that holds the same entries shows the same, whatever came first.

use super::*;

/// The document that the library has of a view saves and loads again.
pub(super) fn reloads(view: &View) {
    let view::Doc::Idle(doc) = &view.doc else { panic!("something is open") };
    let options = am::LoadOptions::new().text_encoding(am::TextEncoding::UnicodeCodePoint);
    let again = am::Automerge::load_with_options(&doc.save(), options).expect("what was saved loads");
    assert_eq!(again.get_heads(), doc.get_heads());
    assert_eq!(
        am::ReadDoc::hydrate(&again, am::ROOT, None).unwrap(),
        am::ReadDoc::hydrate(doc.as_ref(), am::ROOT, None).unwrap()
    );
}
