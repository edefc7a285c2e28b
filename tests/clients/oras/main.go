// Command artifact does what the oras command does, with the library that it is made of: it pushes, attaches, discovers and
// pulls artifacts. ARTIFACT_USER and ARTIFACT_PASSWORD log in; SSL_CERT_FILE names the roots to trust.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"
)

const usage = `artifact push REF ARTIFACT-TYPE FILE=MEDIA-TYPE...    prints the digest
artifact chart REF CONFIG=MEDIA-TYPE FILE=MEDIA-TYPE...   push with a config, as helm does
artifact attach REF ARTIFACT-TYPE FILE=MEDIA-TYPE...  the same with REF as subject
artifact discover REF [ARTIFACT-TYPE]                 prints the referrers' digests
artifact pull REF DIR
artifact copy REF REF
artifact tags REF
artifact repositories HOST`

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "artifact:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage:\n%s", usage)
	}
	command, target, rest := args[0], args[1], args[2:]
	if command == "repositories" {
		return repositories(ctx, target)
	}
	repository, err := open(target)
	if err != nil {
		return err
	}
	switch {
	case command == "push" && len(rest) >= 2:
		return push(ctx, repository, rest[0], oras.PackManifestOptions{}, rest[1:])
	case command == "chart" && len(rest) >= 2:
		return chart(ctx, repository, rest[0], rest[1:])
	case command == "attach" && len(rest) >= 2:
		return attach(ctx, repository, rest[0], rest[1:])
	case command == "discover":
		return discover(ctx, repository, strings.Join(rest, ""))
	case command == "pull" && len(rest) == 1:
		return pull(ctx, repository, rest[0])
	case command == "copy" && len(rest) == 1:
		return replicate(ctx, repository, rest[0])
	case command == "tags":
		return repository.Tags(ctx, "", printAll)
	}
	return fmt.Errorf("usage:\n%s", usage)
}

func client() *auth.Client {
	credential := auth.Credential{Username: os.Getenv("ARTIFACT_USER"), Password: os.Getenv("ARTIFACT_PASSWORD")}
	return &auth.Client{
		Client:     retry.DefaultClient,
		Cache:      auth.NewCache(),
		Credential: func(context.Context, string) (auth.Credential, error) { return credential, nil },
	}
}

func open(reference string) (*remote.Repository, error) {
	repository, err := remote.NewRepository(reference)
	if err != nil {
		return nil, err
	}
	repository.Client = client()
	return repository, nil
}

func repositories(ctx context.Context, host string) error {
	all, err := remote.NewRegistry(host)
	if err != nil {
		return err
	}
	all.Client = client()
	return all.Repositories(ctx, "", printAll)
}

func printAll(names []string) error {
	for _, name := range names {
		fmt.Println(name)
	}
	return nil
}

// add puts files given as FILE=MEDIA-TYPE into the store.
func add(ctx context.Context, store *file.Store, files []string) ([]ocispec.Descriptor, error) {
	var added []ocispec.Descriptor
	for _, entry := range files {
		path, mediaType, _ := strings.Cut(entry, "=")
		name := path[strings.LastIndex(path, "/")+1:]
		descriptor, err := store.Add(ctx, name, mediaType, path)
		if err != nil {
			return nil, err
		}
		added = append(added, descriptor)
	}
	return added, nil
}

func push(ctx context.Context, to *remote.Repository, artifactType string, options oras.PackManifestOptions, files []string) error {
	store, err := file.New("")
	if err != nil {
		return err
	}
	defer store.Close()
	if options.Layers, err = add(ctx, store, files); err != nil {
		return err
	}
	return pack(ctx, store, to, artifactType, options)
}

func pack(ctx context.Context, store *file.Store, to *remote.Repository, artifactType string, options oras.PackManifestOptions) error {
	manifest, err := oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, artifactType, options)
	if err != nil {
		return err
	}
	reference := to.Reference.Reference
	if options.Subject != nil || reference == "" {
		reference = manifest.Digest.String()
	}
	if err := store.Tag(ctx, manifest, reference); err != nil {
		return err
	}
	if _, err := oras.Copy(ctx, store, reference, to, reference, oras.DefaultCopyOptions); err != nil {
		return err
	}
	fmt.Println(manifest.Digest)
	return nil
}

func chart(ctx context.Context, to *remote.Repository, config string, files []string) error {
	store, err := file.New("")
	if err != nil {
		return err
	}
	defer store.Close()
	configs, err := add(ctx, store, []string{config})
	if err != nil {
		return err
	}
	layers, err := add(ctx, store, files)
	if err != nil {
		return err
	}
	return pack(ctx, store, to, "", oras.PackManifestOptions{ConfigDescriptor: &configs[0], Layers: layers})
}

func attach(ctx context.Context, to *remote.Repository, artifactType string, files []string) error {
	subject, err := to.Resolve(ctx, to.Reference.Reference)
	if err != nil {
		return err
	}
	return push(ctx, to, artifactType, oras.PackManifestOptions{Subject: &subject}, files)
}

func discover(ctx context.Context, from *remote.Repository, artifactType string) error {
	subject, err := from.Resolve(ctx, from.Reference.Reference)
	if err != nil {
		return err
	}
	referrers, err := registry.Referrers(ctx, from, subject, artifactType)
	for _, referrer := range referrers {
		fmt.Println(referrer.Digest, referrer.ArtifactType)
	}
	return err
}

func pull(ctx context.Context, from *remote.Repository, directory string) error {
	store, err := file.New(directory)
	if err != nil {
		return err
	}
	defer store.Close()
	reference := from.Reference.Reference
	manifest, err := oras.Copy(ctx, from, reference, store, reference, oras.DefaultCopyOptions)
	if err != nil {
		return err
	}
	fmt.Println(manifest.Digest)
	return nil
}

// replicate copies an artifact with everything that refers to it.
func replicate(ctx context.Context, from *remote.Repository, target string) error {
	to, err := open(target)
	if err != nil {
		return err
	}
	manifest, err := oras.ExtendedCopy(ctx, from, from.Reference.Reference, to, to.Reference.Reference, oras.DefaultExtendedCopyOptions)
	if err != nil {
		return err
	}
	fmt.Println(manifest.Digest)
	return nil
}
