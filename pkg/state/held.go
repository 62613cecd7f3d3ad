package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lock"
)

// Held is a record that this process alone may change, until it is closed.
type Held struct {
	Record
	// Unsaved is why the record on disk is older than this one; nil: it is not.
	Unsaved error

	store *Store
	lock  *lock.Lock
}

// spareSize is enough for the records of some volumes: one is written anew when its
// attachment goes.
const spareSize = 32 << 10

// MakeRoom gives the disk back what was kept from it, for a delete: an instance that
// filled the disk can be deleted.
func (h *Held) MakeRoom() error { return removeIfThere(filepath.Join(h.store.Dir(h.ID), spareFile)) }

// Save writes the record to disk: when it returns, the record survives a crash.
func (h *Held) Save() error {
	h.UpdatedAt = time.Now().UTC()
	data, err := json.MarshalIndent(h.Record, "", "  ")
	if err != nil {
		return err
	}
	if h.Unsaved = durable.WriteFile(filepath.Join(h.store.Dir(h.ID), recordFile), append(data, '\n'), 0o600); h.Unsaved != nil {
		return fmt.Errorf("cannot save the instance's record: %w", h.Unsaved)
	}
	return nil
}

// SaveUndone is Save for what was given back: a disk without space does not stop that,
// as undo takes "not there" as done. Close tells that the record is old.
func (h *Held) SaveUndone() error {
	err := h.Save()
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return nil
	}
	return err
}

// Seed is the seed that the instance was booted with; nil once it is built.
func (h *Held) Seed() ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(h.store.Dir(h.ID), seedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// ForgetSeed removes the seed, and says whether it was there.
func (h *Held) ForgetSeed() (bool, error) {
	err := os.Remove(filepath.Join(h.store.Dir(h.ID), seedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Remove removes the record and everything in its directory.
func (h *Held) Remove() error {
	s, dir := h.store, h.store.Dir(h.ID)
	// The record goes before its lock: a directory without a record is rubbish
	// that repair sweeps away.
	if err := removeIfThere(filepath.Join(dir, recordFile)); err != nil {
		return err
	}
	h.Unsaved = nil
	fault.Point("record/remove/after-record")
	err := s.clear(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	err = errors.Join(s.names.drop(h.Name, h.ID), s.ranges.drop(fmt.Sprint(h.IDs.First), h.ID), err)
	if h.IDs.Count > 0 {
		err = errors.Join(err, s.sweepRegistry(context.Background()))
	}
	return err
}

// Close lets other processes change the instance again.
func (h *Held) Close() error {
	if h.lock == nil {
		return nil
	}
	return h.lock.Close()
}
