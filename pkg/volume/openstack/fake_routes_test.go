package openstack

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"
)

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Openstack-Request-Id", "req-0")
	w.WriteHeader(code)
	if v != nil {
		json.NewEncoder(w).Encode(v)
	}
}

func refuse(w http.ResponseWriter, code int, key, text string) {
	answer(w, code, map[string]any{key: map[string]any{"code": code, "message": text}})
}

// read takes the object below a key out of the request's body.
func read(r *http.Request, key string) map[string]any {
	var body map[string]map[string]any
	json.NewDecoder(r.Body).Decode(&body)
	return body[key]
}

func (c *cloud) routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /identity/v3/auth/tokens", c.signIn)
	mux.HandleFunc("GET /identity/{$}", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 300, map[string]any{"versions": map[string]any{"values": []any{map[string]any{
			"id": "v3.14", "status": "stable", "links": []any{map[string]any{"rel": "self", "href": c.URL + "/identity/v3/"}},
		}}}})
	})
	const p = "/volume/v3/" + fakeProject
	get := func(kind string, all func() map[string]map[string]any) {
		mux.HandleFunc("GET "+p+"/"+kind+"s/{id}", func(w http.ResponseWriter, r *http.Request) {
			v := all()[r.PathValue("id")]
			if v == nil {
				refuse(w, 404, "itemNotFound", kind+" could not be found.")
				return
			}
			answer(w, 200, map[string]any{kind: v})
		})
		list := func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 200, map[string]any{kind + "s": slices.AppendSeq([]map[string]any{}, maps.Values(all()))})
		}
		mux.HandleFunc("GET "+p+"/"+kind+"s/detail", list)
		mux.HandleFunc("GET "+p+"/"+kind+"s", list)
	}
	get("volume", func() map[string]map[string]any { return c.volumes })
	get("snapshot", func() map[string]map[string]any { return c.snapshots })
	get("attachment", func() map[string]map[string]any { return c.attachments })
	create := func(kind string, all func() map[string]map[string]any) {
		mux.HandleFunc("POST "+p+"/"+kind+"s", func(w http.ResponseWriter, r *http.Request) {
			v := read(r, kind)
			id := uuid.NewString()
			v["id"], v["status"], v["created_at"] = id, "available", "2026-01-01T00:00:00.000000"
			if v["metadata"] == nil {
				v["metadata"] = map[string]any{}
			}
			all()[id] = v
			answer(w, 202, map[string]any{kind: v})
		})
		mux.HandleFunc("DELETE "+p+"/"+kind+"s/{id}", func(w http.ResponseWriter, r *http.Request) {
			if all()[r.PathValue("id")] == nil {
				refuse(w, 404, "itemNotFound", kind+" could not be found.")
				return
			}
			delete(all(), r.PathValue("id"))
			w.WriteHeader(202)
		})
	}
	create("volume", func() map[string]map[string]any { return c.volumes })
	create("snapshot", func() map[string]map[string]any { return c.snapshots })
	mux.HandleFunc("POST "+p+"/volumes/{id}/metadata", func(w http.ResponseWriter, r *http.Request) {
		v := c.volumes[r.PathValue("id")]
		maps.Copy(v["metadata"].(map[string]any), read(r, "metadata"))
		answer(w, 200, map[string]any{"metadata": v["metadata"]})
	})
	mux.HandleFunc("DELETE "+p+"/volumes/{id}/metadata/{key}", func(w http.ResponseWriter, r *http.Request) {
		delete(c.volumes[r.PathValue("id")]["metadata"].(map[string]any), r.PathValue("key"))
		w.WriteHeader(200)
	})
	mux.HandleFunc("POST "+p+"/volumes/{id}/action", func(w http.ResponseWriter, r *http.Request) {
		var body map[string]map[string]any
		json.NewDecoder(r.Body).Decode(&body)
		v := c.volumes[r.PathValue("id")]
		if size := body["os-extend"]["new_size"]; size != nil {
			v["size"] = size
		}
		if up := body["os-volume_upload_image"]; up != nil {
			if v["status"] != "available" && (c.noForce || up["force"] != true) {
				refuse(w, 400, "badRequest", "Invalid volume: Volume status must be available, but current status is: "+v["status"].(string)+".")
				return
			}
			id := uuid.NewString()
			c.images[id] = map[string]any{"id": id, "name": up["image_name"], "status": cmp.Or(c.uploads, "active"), "disk_format": "raw", "created_at": "2026-01-01T00:00:00Z", "signature_verified": "False"}
			answer(w, 202, map[string]any{"os-volume_upload_image": map[string]any{"id": v["id"], "image_id": id, "image_name": up["image_name"], "status": "uploading"}})
			return
		}
		if bootable := body["os-set_bootable"]["bootable"]; bootable != nil {
			v["bootable"] = fmt.Sprint(bootable)
		}
		w.WriteHeader(202)
	})
	mux.HandleFunc("PUT "+p+"/volumes/{id}", func(w http.ResponseWriter, r *http.Request) {
		v := c.volumes[r.PathValue("id")]
		if v == nil {
			refuse(w, 404, "itemNotFound", "volume could not be found.")
			return
		}
		maps.Copy(v, read(r, "volume"))
		answer(w, 200, map[string]any{"volume": v})
	})
	mux.HandleFunc("GET "+p+"/messages", func(w http.ResponseWriter, r *http.Request) {
		out := []any{}
		if text := c.messages[r.URL.Query().Get("resource_uuid")]; text != "" {
			out = append(out, map[string]any{"user_message": text})
		}
		answer(w, 200, map[string]any{"messages": out})
	})
	mux.HandleFunc("GET "+p+"/types", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, map[string]any{"volume_types": []any{
			map[string]any{"id": "1", "name": "fast", "extra_specs": map[string]any{}},
			map[string]any{"id": "2", "name": "shared", "extra_specs": map[string]any{"multiattach": "<is> True"}},
		}})
	})
	mux.HandleFunc("GET "+p+"/os-quota-sets/"+fakeProject, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, map[string]any{"quota_set": c.quota})
	})
	c.attachmentRoutes(mux, p)
	c.imageRoutes(mux)
}

func (c *cloud) attachmentRoutes(mux *http.ServeMux, p string) {
	mux.HandleFunc("POST "+p+"/attachments", func(w http.ResponseWriter, r *http.Request) {
		a := read(r, "attachment")
		v := c.volumes[a["volume_uuid"].(string)]
		if v["status"] != "available" {
			refuse(w, 400, "badRequest", "Invalid volume: Volume status must be available or downloading to reserve, but the current status is "+v["status"].(string)+".")
			return
		}
		v["status"] = "reserved"
		id := uuid.NewString()
		c.attachments[id] = map[string]any{"id": id, "volume_id": v["id"], "instance": a["instance_uuid"], "status": "reserved", "attach_mode": a["mode"], "connection_info": map[string]any{}}
		answer(w, 200, map[string]any{"attachment": c.attachments[id]})
	})
	mux.HandleFunc("PUT "+p+"/attachments/{id}", func(w http.ResponseWriter, r *http.Request) {
		a := c.attachments[r.PathValue("id")]
		if a == nil {
			refuse(w, 404, "itemNotFound", "attachment could not be found.")
			return
		}
		a["status"] = "attaching"
		a["connection_info"] = map[string]any{"driver_volume_type": "iscsi", "target_lun": 1, "target_luns": []any{1, 2}, "auth_password": "chap", "access_mode": "rw"}
		c.volumes[a["volume_id"].(string)]["status"] = "attaching"
		answer(w, 200, map[string]any{"attachment": a})
	})
	mux.HandleFunc("POST "+p+"/attachments/{id}/action", func(w http.ResponseWriter, r *http.Request) {
		a := c.attachments[r.PathValue("id")]
		if a == nil {
			refuse(w, 404, "itemNotFound", "attachment could not be found.")
			return
		}
		a["status"] = "attached"
		v := c.volumes[a["volume_id"].(string)]
		v["status"] = "in-use"
		v["attachments"] = []any{map[string]any{"attachment_id": a["id"], "server_id": a["instance"], "volume_id": v["id"]}}
		w.WriteHeader(204)
	})
	mux.HandleFunc("DELETE "+p+"/attachments/{id}", func(w http.ResponseWriter, r *http.Request) {
		a := c.attachments[r.PathValue("id")]
		if a == nil {
			refuse(w, 404, "itemNotFound", "attachment could not be found.")
			return
		}
		delete(c.attachments, r.PathValue("id"))
		v := c.volumes[a["volume_id"].(string)]
		v["status"], v["attachments"] = "available", []any{}
		answer(w, 200, map[string]any{"attachments": []any{}})
	})
}

func (c *cloud) imageRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST /image/v2/images", func(w http.ResponseWriter, r *http.Request) {
		var img map[string]any
		json.NewDecoder(r.Body).Decode(&img)
		id := img["id"].(string)
		if c.images[id] != nil {
			answer(w, 409, map[string]any{"message": "Image ID " + id + " already exists!<br /><br />\n", "code": "409 Conflict", "title": "Conflict"})
			return
		}
		img["status"], img["created_at"] = "queued", "2026-01-01T00:00:00Z"
		c.images[id] = img
		answer(w, 201, img)
	})
	mux.HandleFunc("PUT /image/v2/images/{id}/file", func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		img := c.images[r.PathValue("id")]
		img["status"], img["size"], img["data"] = "active", len(data), string(data)
		w.WriteHeader(204)
	})
	mux.HandleFunc("GET /image/v2/images/{id}/file", func(w http.ResponseWriter, r *http.Request) {
		img := c.images[r.PathValue("id")]
		if img == nil || img["data"] == nil {
			w.WriteHeader(204)
			return
		}
		data := img["data"].(string)
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		io.WriteString(w, data)
	})
	mux.HandleFunc("GET /image/v2/images", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, map[string]any{"images": slices.AppendSeq([]map[string]any{}, maps.Values(c.images))})
	})
	mux.HandleFunc("GET /image/v2/images/{id}", func(w http.ResponseWriter, r *http.Request) {
		if img := c.images[r.PathValue("id")]; img != nil {
			answer(w, 200, img)
			return
		}
		answer(w, 404, map[string]any{"message": "No image found with ID", "code": "404 Not Found"})
	})
	mux.HandleFunc("PATCH /image/v2/images/{id}", func(w http.ResponseWriter, r *http.Request) {
		var patch []struct{ Op, Path, Value string }
		json.NewDecoder(r.Body).Decode(&patch)
		img := c.images[r.PathValue("id")]
		for _, p := range patch {
			if name := strings.TrimPrefix(p.Path, "/"); p.Op == "remove" {
				delete(img, name)
			} else {
				img[name] = p.Value
			}
		}
		answer(w, 200, img)
	})
	mux.HandleFunc("DELETE /image/v2/images/{id}", func(w http.ResponseWriter, r *http.Request) {
		delete(c.images, r.PathValue("id"))
		w.WriteHeader(204)
	})
}

func (c *cloud) signIn(w http.ResponseWriter, r *http.Request) {
	type user struct{ ID, Name, Password string }
	var body struct {
		Auth struct {
			Identity struct {
				Methods  []string
				Password struct{ User user }
				Token    struct{ ID string }
				Cred     struct {
					ID, Name, Secret string
					User             user
				} `json:"application_credential"`
			}
			Scope map[string]any
		}
	}
	json.NewDecoder(r.Body).Decode(&body)
	id := body.Auth.Identity
	good := false
	switch strings.Join(id.Methods, " ") {
	case "password":
		good = id.Password.User.Password == fakePassword && body.Auth.Scope["project"] != nil
	case "token":
		good = c.tokens[id.Token.ID] != "" && body.Auth.Scope["project"] != nil
		id.Password.User.Name = c.tokens[id.Token.ID]
	case "application_credential":
		good = id.Cred.Secret == fakePassword && (id.Cred.ID != "" || id.Cred.Name != "" && id.Cred.User.Name != "") && body.Auth.Scope == nil
	}
	if !good && id.Token.ID != "" {
		refuse(w, 404, "error", "Could not find token: "+id.Token.ID+".")
		return
	}
	if !good {
		refuse(w, 401, "error", "The request you have made requires authentication. ("+id.Password.User.Password+")")
		return
	}
	name := id.Password.User.Name
	if name == "" {
		name = "demo"
	}
	endpoint := func(kind, path string) map[string]any {
		return map[string]any{"type": kind, "name": kind, "endpoints": []any{map[string]any{"interface": "public", "region": "One", "region_id": "One", "url": c.URL + path}}}
	}
	catalog := []any{}
	for kind, path := range c.catalog {
		catalog = append(catalog, endpoint(kind, path))
	}
	token := "token-" + uuid.NewString()
	c.tokens[token] = name
	c.issued = append(c.issued, token)
	w.Header().Set("X-Subject-Token", token)
	answer(w, 201, map[string]any{"token": map[string]any{
		"expires_at": "2099-01-01T00:00:00.000000Z", "catalog": catalog,
		"user": map[string]any{"id": "u", "name": name}, "project": map[string]any{"id": fakeProject, "name": "demo"},
	}})
}
