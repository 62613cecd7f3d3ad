package openstack

import (
	"context"
	"errors"
	"slices"
	"strings"
	"unicode"

	"github.com/google/uuid"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// find gets an object by its id, or else by its name. A name that looks like an id
// is tried as an id first.
func find[T any](ctx context.Context, kind, ref string, get func(context.Context, string) (T, error),
	list func(ctx context.Context, name string) ([]T, error), face func(T) (id, name string)) (T, error) {
	var zero T
	if uuid.Validate(ref) == nil {
		v, err := get(ctx, strings.ToLower(ref))
		if err == nil || !errors.Is(err, volume.ErrNotFound) {
			return v, err
		}
	}
	if ref == "" {
		return zero, failure.Invalid("no %s was given", kind)
	}
	all, err := list(ctx, ref)
	if err != nil {
		return zero, err
	}
	// A service may match a filter loosely, or ignore it.
	all = slices.DeleteFunc(all, func(v T) bool { _, name := face(v); return name != ref })
	if len(all) == 0 && beginsID(ref) {
		if all, err = list(ctx, ""); err != nil {
			return zero, err
		}
		all = slices.DeleteFunc(all, func(v T) bool { id, _ := face(v); return !volume.Begins(ref, id) })
	}
	switch len(all) {
	case 0:
		return zero, &volume.NotFoundError{Kind: kind, Ref: ref}
	case 1:
		id, _ := face(all[0])
		return get(ctx, id) // a list may say less
	}
	amb := &volume.AmbiguousError{Kind: kind, Name: ref}
	for _, v := range all {
		id, _ := face(v)
		amb.IDs = append(amb.IDs, id)
	}
	return zero, amb
}

// beginsID says whether an id can begin so, and is longer.
func beginsID(ref string) bool {
	const id = "00000000-0000-0000-0000-000000000000"
	return len(ref) < len(id) && uuid.Validate(ref+id[len(ref):]) == nil && volume.Begins(ref, strings.ToLower(ref)+id[len(ref):])
}

// notThere makes the service's "not found" into a sentence of ours.
func notThere(kind, id string, err error) error {
	if errors.Is(err, volume.ErrNotFound) {
		return &volume.NotFoundError{Kind: kind, Ref: id}
	}
	return err
}

// maxText is the longest name, description, or metadata text, in characters:
// the columns of Cinder's and Glance's databases.
const maxText = 255

// checkText refuses a text that the cloud would refuse, or that would do harm on a
// terminal.
func checkText(what, text string) error {
	switch {
	case len([]rune(text)) > maxText:
		return failure.Invalid("%s %.20q… has more than %d characters", what, text, maxText)
	case strings.ContainsFunc(text, unicode.IsControl):
		return failure.Invalid("%s %q has control characters", what, text)
	}
	return nil
}

// checkTexts is checkText for metadata and properties.
func checkTexts(what string, m map[string]string) error {
	for k, v := range m {
		if k == "" {
			return failure.Invalid("%s %q has no key", what, "="+v)
		}
		if err := errors.Join(checkText(what+" key", k), checkText(what+" "+k, v)); err != nil {
			return err
		}
	}
	return nil
}
