// Command unused lists what this module declares and only its tests use, or nothing at
// all: functions, methods, types, constants and variables. It exits 1 if there are any.
//
//	unused [TAGS]
//
// A method is used as well where it makes its type an interface of another module's or
// the standard library's. Packages that serve tests are left out.
package main

import (
	"fmt"
	"go/types"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// forTests are the packages that serve tests.
var forTests = regexp.MustCompile(`/(test|pkg/volume/volumetest)(/|$)`)

// errorMethods are called by package errors, by interfaces without a name.
var errorMethods = []string{"As", "Is", "Unwrap"}

func main() {
	log.SetFlags(0)
	tags := ""
	if len(os.Args) > 1 {
		tags = os.Args[1]
	}
	dir, err := os.Getwd()
	if err != nil {
		log.Fatal(err)
	}
	found, err := unused(dir, tags)
	if err != nil {
		log.Fatal(err)
	}
	for _, line := range found {
		fmt.Println(line)
	}
	if len(found) > 0 {
		os.Exit(1)
	}
}

// unused lists what is not used in the module in dir, as "FILE:LINE: NAME is not used".
func unused(dir, tags string) ([]string, error) {
	all, err := packages.Load(&packages.Config{Dir: dir, Mode: packages.LoadSyntax | packages.NeedModule, BuildFlags: []string{"-tags=" + tags}}, "./...")
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		for _, err := range p.Errors {
			return nil, err
		}
	}
	all = slices.DeleteFunc(all, func(p *packages.Package) bool { return forTests.MatchString(p.PkgPath) })
	u := usage{used: map[types.Object]bool{}, seen: map[*types.Package]bool{}}
	for _, p := range all {
		u.look(p)
	}
	var found []string
	for _, p := range all {
		for name, object := range p.TypesInfo.Defs {
			at := p.Fset.Position(name.Pos())
			file, err := filepath.Rel(dir, at.Filename)
			if object == nil || err != nil || strings.HasPrefix(file, "..") || u.is(object) { // cgo's files are elsewhere
				continue
			}
			found = append(found, fmt.Sprintf("%s:%d: %s is not used", file, at.Line, name))
		}
	}
	slices.Sort(found)
	return found, nil
}

// usage is what is used in some packages.
type usage struct {
	used   map[types.Object]bool
	called []*types.Func     // methods of interfaces that are called
	others []*types.TypeName // interfaces of other modules
	seen   map[*types.Package]bool
}

// look adds what a package uses.
func (u *usage) look(p *packages.Package) {
	for _, object := range p.TypesInfo.Uses {
		if f, ok := object.(*types.Func); ok {
			object = f.Origin()
			if recv := f.Signature().Recv(); recv != nil && types.IsInterface(recv.Type()) {
				u.called = append(u.called, f)
			}
		}
		u.used[object] = true
	}
	u.imported(p.Types, p.Module.Path+"/")
}

// imported adds the interfaces of the other modules that a package imports, and of those
// that they import.
func (u *usage) imported(by *types.Package, ours string) {
	for _, p := range by.Imports() {
		if u.seen[p] {
			continue
		}
		u.seen[p] = true
		u.imported(p, ours)
		if strings.HasPrefix(p.Path(), ours) {
			continue
		}
		for _, name := range p.Scope().Names() {
			if t, ok := p.Scope().Lookup(name).(*types.TypeName); ok && types.IsInterface(t.Type()) {
				u.others = append(u.others, t)
			}
		}
	}
}

// is says whether an object is used, or is of a kind that is not looked at: fields,
// parameters and the like.
func (u *usage) is(object types.Object) bool {
	f, isFunc := object.(*types.Func)
	switch {
	case u.used[object] || object.Name() == "_":
		return true
	case isFunc && f.Signature().Recv() != nil:
		return slices.Contains(errorMethods, f.Name()) || u.fulfils(f)
	case isFunc:
		return f.Name() == "main" || f.Name() == "init"
	}
	return object.Pkg() == nil || object.Parent() != object.Pkg().Scope()
}

// fulfils says whether a method makes its type an interface that somebody calls.
func (u *usage) fulfils(f *types.Func) bool {
	for _, m := range u.called {
		if m.Name() == f.Name() && implements(f, m.Signature().Recv().Type()) {
			return true
		}
	}
	for _, t := range u.others {
		if has, _, _ := types.LookupFieldOrMethod(t.Type(), false, nil, f.Name()); has != nil && implements(f, t.Type()) {
			return true
		}
	}
	return false
}

// implements says whether the type of a method implements an interface.
func implements(method *types.Func, of types.Type) bool {
	i, ok := of.Underlying().(*types.Interface)
	recv := method.Signature().Recv().Type()
	if _, isPointer := recv.(*types.Pointer); !isPointer {
		recv = types.NewPointer(recv)
	}
	return ok && types.Implements(recv, i)
}
