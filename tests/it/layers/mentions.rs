//! Paths, method calls and functions in the code of an item.

use std::collections::HashSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Block, Expr, Item, Signature, Token, Visibility};

use super::modules::{Leaf, attributes, is_test, leaves};

/// Everything that was found in a crate.
#[derive(Default)]
pub(super) struct Found {
    pub(super) mentions: Vec<Mention>,
    pub(super) calls: Vec<Call>,
    pub(super) functions: Vec<Function>,
    /// The places of `async` and `await`.
    pub(super) waits: Vec<(usize, usize)>,
}

/// A path in code.
pub(super) struct Mention {
    pub(super) module: usize,
    pub(super) path: Vec<String>,
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anywhere but in a `use`.
    Code,
    /// In a private `use`.
    Import,
    /// In a `pub use`, `pub(crate) use` and so on.
    ReExport,
}

/// A call of a method.
pub(super) struct Call {
    pub(super) module: usize,
    pub(super) name: String,
    pub(super) line: usize,
    /// The type of the method, known only for calls on `self`.
    pub(super) of: Option<Vec<String>>,
}

/// A function or method with a body.
pub(super) struct Function {
    pub(super) module: usize,
    pub(super) name: String,
    /// From its signature to its closing brace.
    pub(super) lines: usize,
    /// The type of the surrounding `impl`.
    pub(super) of: Option<Vec<String>>,
    /// The function is part of a trait or of its implementation.
    pub(super) is_of_trait: bool,
}

/// Reads one item and returns its imports.
pub(super) fn read(found: &mut Found, module: usize, item: &Item) -> Vec<Leaf> {
    let mut reader =
        Reader { found, module, imports: Vec::new(), locals: HashSet::new(), of: None, in_trait: false };
    reader.visit_item(item);
    reader.imports
}

struct Reader<'f> {
    found: &'f mut Found,
    module: usize,
    imports: Vec<Leaf>,
    /// The variables of the function that is being read.
    locals: HashSet<String>,
    /// The meaning of `Self`.
    of: Option<Vec<String>>,
    in_trait: bool,
}

impl Reader<'_> {
    fn mention(&mut self, mut path: Vec<String>, line: usize, kind: Kind) {
        if path.first().is_some_and(|first| first == "Self") {
            let Some(of) = &self.of else { return };
            path.splice(..1, of.iter().cloned());
        }
        if path.len() > 1 || !self.locals.contains(&path[0]) {
            self.found.mentions.push(Mention { module: self.module, path, line, kind });
        }
    }

    fn call(&mut self, name: &syn::Ident, on_self: bool) {
        let of = self.of.clone().filter(|_| on_self);
        let line = name.span().start().line;
        self.found.calls.push(Call { module: self.module, name: name.to_string(), line, of });
    }

    fn function(&mut self, signature: &Signature, body: &Block) {
        let lines = body.brace_token.span.close().end().line - signature.fn_token.span.start().line + 1;
        let (name, of) = (signature.ident.to_string(), self.of.clone());
        let is_of_trait = self.in_trait;
        self.found.functions.push(Function { module: self.module, name, lines, of, is_of_trait });
        if let Some(token) = &signature.asyncness {
            self.found.waits.push((self.module, token.span.start().line));
        }
        let mut variables = Variables(HashSet::new());
        variables.visit_signature(signature);
        variables.visit_block(body);
        self.locals.extend(variables.0);
    }

    /// Reads the arguments of a macro or an attribute, which need not be Rust. Paths of fewer than `least` segments do
    /// not count.
    fn tokens(&mut self, tokens: TokenStream, least: usize) {
        let parser = Punctuated::<Expr, Token![,]>::parse_terminated;
        if least == 1
            && let Ok(expressions) = parser.parse2(tokens.clone())
        {
            // The parsed expressions do not live as long as `self`.
            return expressions.iter().for_each(|expression| {
                let of = self.of.clone();
                let (locals, in_trait) = (self.locals.clone(), self.in_trait);
                let (found, module) = (&mut *self.found, self.module);
                let mut reader = Reader { found, module, imports: Vec::new(), locals, of, in_trait };
                reader.visit_expr(expression);
            });
        }
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = match &tokens[at] {
                TokenTree::Group(group) => {
                    self.tokens(group.stream(), least);
                    at + 1
                }
                TokenTree::Ident(first) => {
                    let before = at.checked_sub(1).map(|before| &tokens[before]);
                    let (path, next) = path_at(&tokens, at);
                    let called = matches!(tokens.get(next), Some(TokenTree::Group(_)));
                    match before {
                        Some(before) if is_sign(before, '.') && called => self.call(first, false),
                        Some(before) if is_sign(before, '.') || is_sign(before, '$') => {}
                        _ if path.len() >= least => {
                            self.mention(path, first.span().start().line, Kind::Code);
                        }
                        _ => {}
                    }
                    next
                }
                TokenTree::Literal(literal) if least > 1 => {
                    self.named_in(literal);
                    at + 1
                }
                _ => at + 1,
            };
        }
    }

    /// Reads a path in a string of an attribute, as in `#[serde(with = "path")]`.
    fn named_in(&mut self, literal: &proc_macro2::Literal) {
        let text = literal.to_string();
        if let Ok(path) = syn::parse_str::<syn::Path>(text.trim_matches('"')) {
            self.mention(names(&path), literal.span().start().line, Kind::Code);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let kind = match item.vis {
            Visibility::Inherited => Kind::Import,
            _ => Kind::ReExport,
        };
        if item.leading_colon.is_none() {
            for leaf in leaves(&item.tree) {
                self.mention(leaf.path.clone(), leaf.line, kind);
                self.imports.push(leaf);
            }
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let of = match &*item.self_ty {
            syn::Type::Path(of) if of.qself.is_none() => Some(names(&of.path)),
            _ => None,
        };
        let before = (std::mem::replace(&mut self.of, of), self.in_trait);
        self.in_trait = item.trait_.is_some();
        visit::visit_item_impl(self, item);
        (self.of, self.in_trait) = before;
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        let before = std::mem::replace(&mut self.in_trait, true);
        visit::visit_item_trait(self, item);
        self.in_trait = before;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let before = self.locals.clone();
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
        self.locals = before;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if is_test(&item.attrs) {
            return;
        }
        let before = self.locals.clone();
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
        self.locals = before;
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        let before = self.locals.clone();
        if let Some(body) = &item.default {
            self.function(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
        self.locals = before;
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !is_test(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !is_test(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let line = path.segments[0].ident.span().start().line;
            self.mention(names(path), line, Kind::Code);
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let on_self = matches!(&*call.receiver, Expr::Path(path) if path.path.is_ident("self"));
        self.call(&call.method, on_self);
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_async(&mut self, block: &'ast syn::ExprAsync) {
        self.found.waits.push((self.module, block.async_token.span.start().line));
        visit::visit_expr_async(self, block);
    }

    fn visit_expr_await(&mut self, wait: &'ast syn::ExprAwait) {
        self.found.waits.push((self.module, wait.await_token.span.start().line));
        visit::visit_expr_await(self, wait);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone(), 1);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        match &attribute.meta {
            syn::Meta::List(list) => self.tokens(list.tokens.clone(), 2),
            syn::Meta::Path(_) | syn::Meta::NameValue(_) => {}
        }
    }

    /// `pub(in crate::cache)` is no import.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

/// The variables of a function.
struct Variables(HashSet<String>);

impl<'ast> Visit<'ast> for Variables {
    fn visit_pat_ident(&mut self, variable: &'ast syn::PatIdent) {
        self.0.insert(variable.ident.to_string());
        visit::visit_pat_ident(self, variable);
    }
}

fn names(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}

/// Returns the path that begins at a token, and the position behind it.
fn path_at(tokens: &[TokenTree], mut at: usize) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    while let Some(TokenTree::Ident(name)) = tokens.get(at) {
        path.push(name.to_string());
        at += 1;
        let divided = |at| tokens.get(at).is_some_and(|token| is_sign(token, ':'));
        if !(divided(at) && divided(at + 1) && matches!(tokens.get(at + 2), Some(TokenTree::Ident(_)))) {
            break;
        }
        at += 2;
    }
    (path, at)
}

fn is_sign(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}
