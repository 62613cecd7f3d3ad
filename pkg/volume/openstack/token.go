package openstack

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	tokens3 "github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
)

// tokenMargin is how long a kept token has to be good for at least.
const tokenMargin = time.Minute

// keptToken is what Keystone gave, as it is kept between commands: the token, and the
// body with the catalog.
type keptToken struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
	Body    any       `json:"body"`
}

// tokenFile is where the token of some credentials is kept: all that they are, the
// password too, makes the name, so that others find another file. It is empty where none
// is kept: for a token that was given, and without a directory that is ours alone.
func (s *Store) tokenFile(c credentials) string {
	if s.o.TokenDir == "" || c.auth.TokenID != "" {
		return ""
	}
	if err := os.Mkdir(s.o.TokenDir, 0o700); err != nil && !os.IsExist(err) {
		return ""
	}
	info, err := os.Lstat(s.o.TokenDir)
	if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return ""
	}
	all, err := json.Marshal([]any{c.auth.IdentityEndpoint, c.auth.Username, c.auth.UserID, c.auth.Password, c.auth.DomainID, c.auth.DomainName, c.auth.Scope,
		c.auth.ApplicationCredentialID, c.auth.ApplicationCredentialName, c.auth.ApplicationCredentialSecret})
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(all)
	return filepath.Join(s.o.TokenDir, hex.EncodeToString(sum[:16]))
}

// useKept gives a client the token that was kept for the credentials, if there is one
// that is still good.
func (s *Store) useKept(provider *gophercloud.ProviderClient, file string) bool {
	data, err := os.ReadFile(file)
	var kept keptToken
	if err != nil || json.Unmarshal(data, &kept) != nil || kept.Token == "" || time.Until(kept.Expires) < tokenMargin {
		return false
	}
	var answer tokens3.CreateResult
	answer.Body, answer.Header = kept.Body, http.Header{"X-Subject-Token": {kept.Token}}
	return provider.SetTokenAndAuthResult(answer) == nil
}

// keep keeps a client's token for the next command. That it can not is no matter.
func (s *Store) keep(provider *gophercloud.ProviderClient, file string) {
	answer, ok := provider.GetAuthResult().(tokens3.CreateResult)
	if !ok || file == "" {
		return
	}
	token, err := answer.ExtractToken()
	if err != nil {
		return
	}
	data, err := json.Marshal(keptToken{token.ID, token.ExpiresAt, answer.Body})
	if err != nil {
		return
	}
	if err := replace(file, data, token.ExpiresAt); err != nil {
		s.o.Log.Debug("the token is not kept", "error", err)
	}
	pruneTokens(filepath.Dir(file))
}

// replace writes a file as a whole, for us alone, and notes on it until when it is good.
func replace(file string, data []byte, until time.Time) error {
	f, err := os.CreateTemp(filepath.Dir(file), "new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Chtimes(f.Name(), until, until)
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// pruneTokens removes the tokens that have expired, and what a crash has left.
func pruneTokens(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > time.Hour {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}
