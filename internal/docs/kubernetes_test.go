package docs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/apex-network/apex/agent"
)

const podExample = "deploy/kubernetes/pod.yaml"

// object is as much of a Kubernetes object as the example uses; a field that is not here is an error.
type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct{ Name string }
	Automount  *bool             `yaml:"automountServiceAccountToken"`
	Data       map[string]string // ConfigMap
	Spec       struct {          // Pod
		Account    string `yaml:"serviceAccountName"`
		Automount  *bool  `yaml:"automountServiceAccountToken"`
		Containers []container
		Volumes    []volume
	}
}

type container struct {
	Name, Image string
	Command     []string
	Security    struct {
		User         *int `yaml:"runAsUser"`
		Capabilities struct{ Drop, Add []string }
		Escalation   *bool                 `yaml:"allowPrivilegeEscalation"`
		ReadOnly     bool                  `yaml:"readOnlyRootFilesystem"`
		Seccomp      struct{ Type string } `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
	Resources struct{ Requests, Limits map[string]string }
	Mounts    []struct {
		Name     string
		Path     string `yaml:"mountPath"`
		ReadOnly bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
}

type volume struct {
	Name      string
	ConfigMap *struct{ Name string } `yaml:"configMap"`
	Projected *struct {
		Sources []struct {
			Token struct {
				Path, Audience string
				Seconds        int `yaml:"expirationSeconds"`
			} `yaml:"serviceAccountToken"`
		}
	}
	EmptyDir *struct {
		Medium string
		Size   string `yaml:"sizeLimit"`
	} `yaml:"emptyDir"`
}

// TestPodExample demands that the pod's parts fit together, and that the agent takes the configuration in it.
func TestPodExample(t *testing.T) {
	account, config, pod := readPod(t)
	if len(pod.Spec.Containers) != 1 {
		t.Fatalf("%d containers", len(pod.Spec.Containers))
	}
	c := pod.Spec.Containers[0]
	off := func(b *bool) bool { return b != nil && !*b }
	if pod.Spec.Account != account.Metadata.Name || !off(account.Automount) || !off(pod.Spec.Automount) {
		t.Error("the pod is of another account, or has a token of the cluster's own")
	}
	s := c.Security
	if !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) || !slices.Equal(s.Capabilities.Add, []string{"NET_ADMIN"}) ||
		!off(s.Escalation) || !s.ReadOnly || s.User == nil || *s.User != 0 || s.Seccomp.Type != "RuntimeDefault" {
		t.Errorf("the container's rights are %+v", s)
	}

	volumes, mounted := map[string]volume{}, map[string]volume{} // by name, and by folder
	for _, v := range pod.Spec.Volumes {
		volumes[v.Name] = v
	}
	for _, m := range c.Mounts {
		v, ok := volumes[m.Name]
		if !ok || m.ReadOnly == (v.EmptyDir != nil) {
			t.Errorf("the mount %+v has no volume, or may be written to although it must not", m)
		}
		mounted[m.Path] = v
	}
	if len(mounted) != len(pod.Spec.Volumes) {
		t.Errorf("%d volumes in %d folders", len(pod.Spec.Volumes), len(mounted))
	}

	file := c.Command[len(c.Command)-1]
	if v := mounted[path.Dir(file)].ConfigMap; v == nil || v.Name != config.Metadata.Name {
		t.Fatalf("%s is in no ConfigMap of this file", file)
	}
	a := podAgent(t, config.Data[path.Base(file)], pod.Metadata.Name)
	for _, written := range []string{a.IdentityKeyFile, a.WireGuardKeyFile, path.Join(a.StateDir, "networks"), a.Socket} {
		if v := mounted[path.Dir(written)].EmptyDir; v == nil || v.Medium != "Memory" {
			t.Errorf("%s is in no folder of the pod's own memory", written)
		}
	}
	join := a.Zones[0].Join
	token := mounted[path.Dir(join.TokenFile)].Projected
	if token == nil || len(token.Sources) != 1 {
		t.Fatalf("%s is no projected token", join.TokenFile)
	}
	if got := token.Sources[0].Token; got.Path != path.Base(join.TokenFile) || got.Audience != join.Audience || got.Seconds < 600 {
		t.Errorf("the token is %+v, and the agent wants audience %q in %s", got, join.Audience, join.TokenFile)
	}
	if join.IssuerURL == "" || !join.Ephemeral {
		t.Errorf("join is %+v", join)
	}
}

// readPod reads the objects of the example, in whatever order.
func readPod(t *testing.T) (account, config, pod object) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(podExample)))
	if err != nil {
		t.Fatal(err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	into := map[string]*object{"ServiceAccount": &account, "ConfigMap": &config, "Pod": &pod}
	for {
		var o object
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		place := into[o.Kind]
		if place == nil || o.APIVersion != "v1" || o.Metadata.Name == "" || place.Kind != "" {
			t.Fatalf("unexpected %s %s %q", o.APIVersion, o.Kind, o.Metadata.Name)
		}
		*place = o
	}
	for kind, o := range into {
		if o.Kind == "" {
			t.Fatalf("there is no %s", kind)
		}
	}
	return account, config, pod
}

// podAgent reads a configuration as the agent does on a host of that name.
func podAgent(t *testing.T, text, host string) agent.Config {
	t.Helper()
	return parseAgent(t, text+"node: "+agent.NodeName(host)+"\n")
}
