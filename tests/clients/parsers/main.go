// Reads the files of `dockgate client-config` with the code of the programs that they are for, and prints where an image is
// looked for: parsers buildkit FILE REGISTRY, parsers k3s FILE REGISTRY, parsers containers FILE IMAGE.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/containers/image/v5/docker/reference"
	"github.com/containers/image/v5/pkg/sysregistriesv2"
	"github.com/containers/image/v5/types"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/resolver"
	"github.com/rancher/wharfie/pkg/registries"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("parsers buildkit|k3s|containers FILE NAME")
	}
	readers := map[string]func(file, name string) ([]string, error){
		"buildkit": buildkit, "k3s": k3s, "containers": containers,
	}
	read, ok := readers[os.Args[1]]
	if !ok {
		log.Fatalf("%s is not known", os.Args[1])
	}
	places, err := read(os.Args[2], os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(strings.Join(places, "\n"))
}

// The hosts that buildkitd asks for an image of the registry, in this order.
func buildkit(file, registry string) ([]string, error) {
	settings, err := config.LoadFile(file)
	if err != nil {
		return nil, err
	}
	hosts, err := resolver.NewRegistryConfig(settings.Registries)(registry)
	if err != nil {
		return nil, err
	}
	var places []string
	for _, host := range hosts {
		places = append(places, fmt.Sprintf("%s://%s%s", host.Scheme, host.Host, host.Path))
	}
	return places, nil
}

// The endpoints of the registry, each with the login and the CA that k3s has for it.
func k3s(file, registry string) ([]string, error) {
	all, err := registries.GetPrivateRegistries(file)
	if err != nil {
		return nil, err
	}
	mirror, ok := all.Registry.Mirrors[registry]
	if !ok {
		return nil, errors.New("no mirror of " + registry)
	}
	var places []string
	for _, endpoint := range mirror.Endpoints {
		host := endpoint[strings.LastIndex(endpoint, "/")+1:]
		user, ca := "nobody", "no CA"
		if found, ok := all.Registry.Configs[host]; ok {
			if found.Auth != nil {
				user = found.Auth.Username + ":" + found.Auth.Password
			}
			if found.TLS != nil {
				ca = found.TLS.CAFile
			}
		}
		places = append(places, strings.Join([]string{endpoint, user, ca}, " "))
	}
	return places, nil
}

// The places that podman, buildah, skopeo and CRI-O ask for the image, in this order.
func containers(file, image string) ([]string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil, err
	}
	system := &types.SystemContext{SystemRegistriesConfPath: file, SystemRegistriesConfDirPath: "/nonexistent"}
	registry, err := sysregistriesv2.FindRegistry(system, named.String())
	if err != nil {
		return nil, err
	}
	if registry == nil {
		return nil, errors.New("nothing about " + image)
	}
	sources, err := registry.PullSourcesFromReference(named)
	if err != nil {
		return nil, err
	}
	var places []string
	for _, source := range sources {
		places = append(places, source.Reference.String())
	}
	return places, nil
}
