//! What a document shows, without how it came to be: taken from one document, put into another.

use automerge as am;
use automerge::ReadDoc;
use automerge::marks::Mark;

use super::edit::{Edit, EditError, Expand};
use super::value::{ObjId, ObjKind, Prop, Scalar};
use super::view::{View, with_doc};

/// A value with everything in it.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A plain value; a counter with what it stands at.
    Scalar(Scalar),
    /// A map, keys ascending.
    Map(Vec<(String, Content)>),
    /// A list.
    List(Vec<Content>),
    /// A text and its marks: first code point, the one after the last, name, value.
    Text(String, Vec<(usize, usize, String, Scalar)>),
}

impl View {
    /// Everything that the document shows, pending edits included.
    pub fn content(&self) -> Content {
        with_doc!(self, doc => object(doc, &am::ROOT, am::ObjType::Map))
    }
}

/// The rules bound how deep this goes.
fn object(doc: &impl ReadDoc, obj: &am::ObjId, kind: am::ObjType) -> Content {
    let of = |value: am::Value<'_>, id: &am::ObjId| match value {
        am::Value::Object(kind) => object(doc, id, kind),
        am::Value::Scalar(scalar) => Content::Scalar(scalar.as_ref().into()),
    };
    match kind {
        am::ObjType::Map | am::ObjType::Table => {
            let keys = doc.keys(obj).collect::<Vec<_>>();
            let all = keys.into_iter().filter_map(|key| {
                let (value, id) = doc.get(obj, key.as_str()).ok()??;
                Some((key, of(value, &id)))
            });
            Content::Map(all.collect())
        }
        am::ObjType::List => {
            let all = doc.values(obj).map(|(value, id)| of(value, &id));
            Content::List(all.collect())
        }
        am::ObjType::Text => {
            let marks = doc.marks(obj).unwrap_or_default();
            let of = |mark: &Mark| (mark.start, mark.end, mark.name().to_owned(), Scalar::from(mark.value()));
            let marks = marks.iter().filter(|mark| mark.start < mark.end).map(of).collect();
            Content::Text(doc.text(obj).unwrap_or_default(), marks)
        }
    }
}

impl Edit<'_> {
    /// Puts content into an object of its kind that is empty.
    pub fn fill(&mut self, obj: &ObjId, content: &Content) -> Result<(), EditError> {
        match content {
            Content::Map(entries) => entries.iter().try_for_each(|(key, content)| match content.kind() {
                Err(scalar) => self.put(obj, key.as_str(), scalar.clone()),
                Ok(kind) => {
                    let made = self.put_object(obj, Prop::from(key.as_str()), kind)?;
                    self.fill(&made, content)
                }
            }),
            Content::List(items) => {
                let mut index = 0;
                items.chunk_by(|a, b| a.kind().is_err() && b.kind().is_err()).try_for_each(|run| {
                    match run[0].kind() {
                        Err(_) => {
                            let scalars = run.iter().filter_map(|content| content.kind().err().cloned());
                            self.insert_many(obj, index, scalars)?;
                        }
                        Ok(kind) => {
                            let made = self.insert_object(obj, index, kind)?;
                            self.fill(&made, &run[0])?;
                        }
                    }
                    index += run.len();
                    Ok(())
                })
            }
            Content::Text(text, marks) => {
                self.splice_text(obj, 0, 0, text)?;
                marks.iter().try_for_each(|(start, end, name, value)| {
                    self.mark(obj, *start, *end, Expand::After, name, value.clone())
                })
            }
            Content::Scalar(_) => Err(EditError::WrongKind { edit: "fill", found: self.kind(obj)? }),
        }
    }
}

impl Content {
    fn kind(&self) -> Result<ObjKind, &Scalar> {
        match self {
            Content::Scalar(scalar) => Err(scalar),
            Content::Map(_) => Ok(ObjKind::Map),
            Content::List(_) => Ok(ObjKind::List),
            Content::Text(..) => Ok(ObjKind::Text),
        }
    }
}
