//! Editing JSON in the person's own editor.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value as Json;

use crate::failure::Failure;
use crate::print;

/// A text that is being edited. The file goes when the edit worked out, and stays when it did not.
pub(crate) struct Draft {
    folder: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// Shows a value in the editor and reads what became of it.
    pub(crate) fn edit(name: &str, before: &Json) -> Result<(Draft, Json), Failure> {
        let Some(editor) =
            ["VISUAL", "EDITOR"].into_iter().filter_map(std::env::var_os).find(|value| !value.is_empty())
        else {
            return Err(Failure::usage(
                "no_editor",
                "neither VISUAL nor EDITOR is set",
                "set one, or give the change with --patch",
            ));
        };
        let draft = Draft::write(name, before)?;
        // Through a shell, as everybody does: the variable may hold arguments. The path is an argument of its own.
        let mut line = editor.clone();
        line.push(" \"$1\"");
        let status = Command::new("sh").arg("-c").arg(line).arg("sh").arg(&draft.path).status().map_err(|error| {
            Failure::failed(
                "editor",
                format!("cannot start {}: {error}", editor.display()),
                "set EDITOR to a program that is there",
            )
        })?;
        if !status.success() {
            draft.discard();
            return Err(Failure::failed(
                "editor",
                format!("{} ended with {status}", editor.display()),
                "nothing was changed; edit again",
            ));
        }
        let text = std::fs::read_to_string(&draft.path).map_err(|error| {
            Failure::failed("editor", format!("cannot read the edited text: {error}"), "edit again")
        })?;
        match serde_json::from_str(&text) {
            Ok(after) => Ok((draft, after)),
            Err(error) => {
                Err(draft.kept(Failure::failed("bad_json", format!("the edited text is not JSON: {error}"), "")))
            }
        }
    }

    fn write(name: &str, before: &Json) -> Result<Draft, Failure> {
        let cannot = |error: std::io::Error| {
            Failure::failed(
                "editor",
                format!("cannot make a file to edit: {error}"),
                "check the temporary folder (TMPDIR)",
            )
        };
        let folder = private_folder("edit").map_err(cannot)?;
        let short: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).take(40).collect();
        let path = folder.join(format!("{short}.json"));
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(print::pretty(before).as_bytes())).map_err(cannot)?;
        Ok(Draft { folder, path })
    }

    /// The edit worked out.
    pub(crate) fn discard(&self) {
        // A file left in the temporary folder does no harm.
        let _ = std::fs::remove_dir_all(&self.folder);
    }

    /// The edit did not work out: the person's text must not be lost.
    pub(crate) fn kept(&self, failure: Failure) -> Failure {
        let remedy = format!(
            "{}{}your text is kept in {}",
            failure.remedy,
            if failure.remedy.is_empty() { "" } else { "; " },
            self.path.display()
        );
        Failure { remedy, ..failure }
    }
}

/// A new folder under the temporary one for this user alone.
pub(crate) fn private_folder(what: &str) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let mut tries = 0;
    loop {
        let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.subsec_nanos());
        let folder = std::env::temp_dir().join(format!("commonhold-{what}-{}-{nanos:08x}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && tries < 16 => tries += 1,
            Err(error) => return Err(error),
        }
    }
}
