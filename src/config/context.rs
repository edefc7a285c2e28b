//! The state that the readers of all sections share.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::group::Group;
use crate::config::mistake::{ConfigErrors, Mistake, Place};
use crate::config::reference::Reference;

/// The state that the sections' readers share: the folder of relative paths, and the mistakes found.
#[derive(Debug)]
pub(super) struct Context {
    /// The file's name as the operator wrote it; None where variables alone configure.
    pub(super) file: Option<Arc<str>>,
    /// The folder that relative paths in the file begin at.
    pub(super) folder: PathBuf,
    /// The home of the gateway's user, where it is known.
    pub(super) home: Option<PathBuf>,
    mistakes: RefCell<Vec<Mistake>>,
    warnings: RefCell<Vec<String>>,
    references: RefCell<Vec<Reference>>,
    interpolated: RefCell<Vec<PathBuf>>,
    groups: RefCell<Vec<Group>>,
    providers: RefCell<Vec<String>>,
    /// Finds the `registry` image's variable for a key, where those variables configure.
    image: Cell<Option<VariableOf>>,
}

/// From a key's path to the `registry` image's variable for it.
type VariableOf = fn(&str) -> Option<&'static str>;

impl Context {
    pub(super) fn new(file: Option<&str>, folder: PathBuf) -> Self {
        Self {
            file: file.map(Into::into),
            folder,
            home: None,
            mistakes: RefCell::default(),
            warnings: RefCell::default(),
            references: RefCell::default(),
            interpolated: RefCell::default(),
            groups: RefCell::default(),
            providers: RefCell::default(),
            image: Cell::default(),
        }
    }

    pub(super) fn mistake(&self, place: &Place, key: &str, text: impl Into<String>) {
        let mistake = Mistake { place: place.clone(), key: key.to_owned(), text: text.into() };
        self.mistakes.borrow_mut().push(mistake);
    }

    /// Remembers the groups of `[auth.groups]`, which several sections name.
    pub(super) fn set_groups(&self, groups: &[Group]) {
        self.groups.replace(groups.to_vec());
    }

    /// Remembers the name of a provider of `[[auth.oidc]]`, which no user of the htpasswd file may have.
    pub(super) fn add_provider(&self, name: &str) {
        self.providers.borrow_mut().push(name.to_owned());
    }

    /// Returns the first provider whose name `is_taken`.
    pub(super) fn provider(&self, is_taken: impl Fn(&str) -> bool) -> Option<String> {
        self.providers.borrow().iter().find(|name| is_taken(name)).cloned()
    }

    /// Returns the group of a name.
    pub(super) fn group(&self, name: &str) -> Option<Group> {
        self.groups.borrow().iter().find(|group| group.name == name).cloned()
    }

    pub(super) fn warn(&self, text: impl Into<String>) {
        self.warnings.borrow_mut().push(text.into());
    }

    /// Remembers a file that the configuration names, so that it can be looked at.
    pub(super) fn refer(&self, reference: Reference) {
        self.references.borrow_mut().push(reference);
    }

    pub(super) fn references(&self) -> Vec<Reference> {
        self.references.borrow().clone()
    }

    /// Remembers a file whose content has become part of the configuration.
    pub(super) fn put_in(&self, path: PathBuf) {
        self.interpolated.borrow_mut().push(path);
    }

    /// Returns the files that the configuration is made from or that its upstreams name, each once.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = self.interpolated.borrow().clone();
        let references = self.references.borrow();
        files.extend(references.iter().flat_map(Reference::of_upstream).map(|file| file.path.clone()));
        let mut seen = BTreeSet::new();
        files.retain(|path| seen.insert(path.clone()));
        files
    }

    /// Returns the place of a line of the file.
    pub(super) fn line(&self, line: usize) -> Place {
        self.file.as_ref().map_or(Place::Environment, |file| Place::Line { file: Arc::clone(file), line })
    }

    /// Returns the configuration as a whole: for what is missing from it.
    pub(super) fn whole(&self) -> Place {
        self.file.as_ref().map_or(Place::Environment, |file| Place::File(Arc::clone(file)))
    }

    /// Returns the folder that a relative path begins at: the file's for what the file holds, the working directory
    /// for what a variable says.
    pub(super) fn folder_of(&self, place: &Place) -> PathBuf {
        match place {
            Place::Variable(_) | Place::Environment => PathBuf::new(),
            Place::Line { .. } | Place::File(_) => self.folder.clone(),
        }
    }

    /// Returns how to add a setting, in the operator's own way: `file` where there is a file, else `variable`.
    pub(super) fn advice(&self, file: &str, variable: &str) -> String {
        match self.file {
            Some(_) => format!("add {file}"),
            None => format!("set {variable}"),
        }
    }

    /// Makes advice name the variables of the `registry` image: they are what the operator writes.
    pub(super) fn advise_variables_of(&self, image: VariableOf) {
        self.image.set(Some(image));
    }

    /// Returns the variable that sets the key at `path`, such as `server.tls.key` or `upstream[0].url`, in the operator's
    /// own way.
    pub(super) fn variable(&self, path: &str) -> String {
        if let Some(name) = self.image.get().and_then(|image| image(path)) {
            return name.to_owned();
        }
        format!("DOCKGATE_{}", path.replace(['.', '['], "__").replace(']', "").to_uppercase())
    }

    /// Returns the warnings, if nothing was wrong.
    pub(super) fn finish(self) -> Result<Vec<String>, ConfigErrors> {
        if self.is_clean() { Ok(self.warnings.into_inner()) } else { Err(self.errors()) }
    }

    /// Returns all that was wrong.
    pub(super) fn errors(self) -> ConfigErrors {
        ConfigErrors::sorted(self.mistakes.into_inner())
    }

    pub(super) fn is_clean(&self) -> bool {
        self.mistakes.borrow().is_empty()
    }
}
