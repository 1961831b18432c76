package check

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	kubeyaml "sigs.k8s.io/yaml"
)

// opsSettings are the variables that the README lists, and their defaults.
func opsSettings(t *testing.T) map[string]string {
	t.Helper()
	settings := map[string]string{}
	name := regexp.MustCompile("`([A-Z][A-Z0-9_]+)`")
	for line := range strings.Lines(opsRead(t, "../README.md")) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.HasPrefix(line, "| `") {
			continue
		}
		defaults := strings.Split(cells[2], ",")
		for i, m := range name.FindAllStringSubmatch(cells[1], -1) {
			settings[m[1]] = strings.Trim(defaults[min(i, len(defaults)-1)], " `")
		}
	}
	return settings
}

// opsNumber is the default of a setting.
func opsNumber(t *testing.T, setting string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.Fields(opsSettings(t)[setting])[0])
	if err != nil {
		t.Fatalf("README.md: the default of %s: %v", setting, err)
	}
	return n
}

// opsRest is what a process needs after its clients are handed over, in seconds: requests
// that run have five.
const opsRest = 5

// opsRoles are the processes, by the commands that they run.
var opsRoles = []string{"api", "gateway", "listener"}

// What a unit may say: a key that systemd does not know is only a warning in its log.
var opsUnitKeys = map[string][]string{
	"Unit": {"Description", "After", "Wants", "StartLimitIntervalSec"},
	"Service": {
		"Type", "ExecStart", "EnvironmentFile", "Restart", "RestartSec", "KillSignal", "TimeoutStopSec", "TimeoutStartSec", "LimitNOFILE",
		"DynamicUser", "NoNewPrivileges", "CapabilityBoundingSet", "ProtectSystem", "ProtectHome", "ProtectProc", "ProtectClock",
		"ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "PrivateDevices",
		"PrivateTmp", "PrivateUsers", "RemoveIPC", "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID",
		"LockPersonality", "MemoryDenyWriteExecute", "SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber", "UMask",
	},
	"Install": {"WantedBy"},
}

// opsUnit reads a unit strictly: no key twice, but those that are lists.
func opsUnit(t *testing.T, path string) map[string]string {
	t.Helper()
	out, section := map[string]string{}, ""
	for i, line := range strings.Split(opsRead(t, path), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "[") {
			if section = strings.Trim(line, "[]"); opsUnitKeys[section] == nil || line != "["+section+"]" {
				t.Errorf("%s:%d: %s", path, i+1, line)
			}
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !slices.Contains(opsUnitKeys[section], key) || value != strings.TrimSpace(value) {
			t.Errorf("%s:%d: is nothing that section %s may have: %s", path, i+1, section, line)
		}
		if before, ok := out[key]; ok {
			if key != "EnvironmentFile" && key != "SystemCallFilter" {
				t.Errorf("%s:%d: %s is there twice", path, i+1, key)
			}
			value = before + " " + value
		}
		out[key] = value
	}
	return out
}

func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("systemd/*.service")
	if err != nil || len(paths) != 2 {
		t.Fatal(paths, err)
	}
	process, migrate := opsUnit(t, "systemd/telemetra@.service"), opsUnit(t, "systemd/telemetra-migrate.service")
	for _, u := range []map[string]string{process, migrate} {
		if !strings.HasPrefix(u["EnvironmentFile"], "/etc/telemetra/telemetra.env") {
			t.Errorf("settings come from %s", u["EnvironmentFile"])
		}
		for _, key := range []string{"DynamicUser", "NoNewPrivileges", "PrivateTmp", "PrivateDevices", "MemoryDenyWriteExecute"} {
			if u[key] != "yes" {
				t.Errorf("%s: %q", key, u[key])
			}
		}
		if u["ProtectSystem"] != "strict" || u["CapabilityBoundingSet"] != "" {
			t.Errorf("it may do too much: %v", u)
		}
	}
	if process["ExecStart"] != "/usr/local/bin/telemetra %i" || migrate["ExecStart"] != "/usr/local/bin/telemetra migrate up" || migrate["Type"] != "oneshot" {
		t.Errorf("they start %q and %q", process["ExecStart"], migrate["ExecStart"])
	}
	if process["Restart"] != "always" || process["RestartSec"] == "" || process["StartLimitIntervalSec"] != "0" || process["KillSignal"] != "SIGTERM" {
		t.Errorf("it is not kept alive: %v", process)
	}
	stop, err := strconv.Atoi(process["TimeoutStopSec"])
	if least := opsNumber(t, "DRAIN_PERIOD") + opsRest; err != nil || stop <= least {
		t.Errorf("TimeoutStopSec is %d, handing over takes %d", stop, least)
	}
	files, err := strconv.Atoi(process["LimitNOFILE"])
	if least := opsNumber(t, "WS_MAX_CONNECTIONS") + 1000; err != nil || files < least {
		t.Errorf("LimitNOFILE is %d, it needs %d", files, least)
	}
	for line := range strings.Lines(opsRead(t, "systemd/telemetra.env")) {
		name, _, ok := strings.Cut(line, "=")
		if _, known := opsSettings(t)[name]; !known && !strings.HasPrefix(line, "#") || !ok && !strings.HasPrefix(line, "#") {
			t.Errorf("telemetra.env: there is no setting %s", name)
		}
	}
}

// opsCluster is what deploy/kubernetes makes, by kind and name.
type opsCluster struct {
	maps        map[string]*corev1.ConfigMap
	services    map[string]*corev1.Service
	deployments map[string]*appsv1.Deployment
	jobs        map[string]*batchv1.Job
	scalers     map[string]*autoscalingv2.HorizontalPodAutoscaler
	budgets     map[string]*policyv1.PodDisruptionBudget
	ingresses   map[string]*networkingv1.Ingress
}

// opsDecode decodes a document strictly, with the types of Kubernetes itself.
func opsDecode[T any](t *testing.T, path, doc, name string, into map[string]*T) {
	t.Helper()
	object := new(T)
	if err := kubeyaml.UnmarshalStrict([]byte(doc), object); err != nil {
		t.Errorf("%s: %s: %v", path, name, err)
	}
	if name == "" || into[name] != nil {
		t.Errorf("%s: the name %q has nobody, or another of its kind", path, name)
	}
	into[name] = object
}

func opsKubernetes(t *testing.T) (c opsCluster) {
	t.Helper()
	c = opsCluster{
		map[string]*corev1.ConfigMap{},
		map[string]*corev1.Service{},
		map[string]*appsv1.Deployment{},
		map[string]*batchv1.Job{},
		map[string]*autoscalingv2.HorizontalPodAutoscaler{},
		map[string]*policyv1.PodDisruptionBudget{},
		map[string]*networkingv1.Ingress{},
	}
	paths, err := filepath.Glob("kubernetes/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		for doc := range strings.SplitSeq(opsRead(t, path), "\n---\n") {
			var head metav1.PartialObjectMetadata
			if err := kubeyaml.Unmarshal([]byte(doc), &head); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if head.Namespace != "" {
				t.Errorf("%s: %s has a namespace", path, head.Name)
			}
			switch head.APIVersion + " " + head.Kind {
			case "v1 ConfigMap":
				opsDecode(t, path, doc, head.Name, c.maps)
			case "v1 Service":
				opsDecode(t, path, doc, head.Name, c.services)
			case "apps/v1 Deployment":
				opsDecode(t, path, doc, head.Name, c.deployments)
			case "batch/v1 Job":
				opsDecode(t, path, doc, head.Name, c.jobs)
			case "autoscaling/v2 HorizontalPodAutoscaler":
				opsDecode(t, path, doc, head.Name, c.scalers)
			case "policy/v1 PodDisruptionBudget":
				opsDecode(t, path, doc, head.Name, c.budgets)
			case "networking.k8s.io/v1 Ingress":
				opsDecode(t, path, doc, head.Name, c.ingresses)
			default:
				t.Errorf("%s: nobody looks at a %s %s", path, head.APIVersion, head.Kind)
			}
		}
	}
	return c
}

func TestKubernetes(t *testing.T) {
	t.Parallel()
	c := opsKubernetes(t)
	if got := slices.Sorted(maps.Keys(c.deployments)); !slices.Equal(got, opsRoles) || len(c.jobs) != 1 || len(c.ingresses) != 1 {
		t.Fatalf("deployments %v, %d jobs, %d ingresses", got, len(c.jobs), len(c.ingresses))
	}
	settings := c.maps["telemetra"].Data
	for name := range settings {
		if _, ok := opsSettings(t)[name]; !ok {
			t.Errorf("there is no setting %s", name)
		}
	}
	drain, err := strconv.Atoi(settings["DRAIN_PERIOD"])
	if err != nil {
		t.Fatal(err)
	}
	for role, d := range c.deployments {
		pod := d.Spec.Template
		opsCheckPod(t, c, role, &pod.Spec, []string{role})
		if !maps.Equal(d.Spec.Selector.MatchLabels, pod.Labels) || len(pod.Labels) == 0 {
			t.Errorf("%s selects %v of pods with %v", role, d.Spec.Selector.MatchLabels, pod.Labels)
		}
		opsCheckLife(t, role, &pod.Spec, time.Duration(drain)*time.Second)
		budget := c.budgets[role]
		if budget == nil || !maps.Equal(budget.Spec.Selector.MatchLabels, pod.Labels) {
			t.Errorf("%s has the budget %+v", role, budget)
		}
		if _, scaled := c.scalers[role]; scaled != (d.Spec.Replicas == nil) {
			t.Errorf("%s is scaled by hand and by itself, or by neither", role)
		}
	}
	for name, j := range c.jobs {
		opsCheckPod(t, c, name, &j.Spec.Template.Spec, []string{"migrate", "up"})
	}
	for name, s := range c.services {
		d := c.deployments[s.Spec.Selector["app.kubernetes.io/name"]]
		if d == nil || !maps.Equal(d.Spec.Template.Labels, s.Spec.Selector) || len(s.Spec.Ports) != 1 || s.Spec.Ports[0].TargetPort != intstr.FromString("http") {
			t.Errorf("the service %s leads nowhere", name)
		}
	}
	opsCheckScalers(t, c)
	opsCheckIngress(t, c)
	for _, job := range opsYAML[opsPrometheus](t, "prometheus.yml").Jobs {
		for _, dns := range job.DNS {
			for _, name := range dns.Names {
				s := c.services[name]
				if s == nil || s.Spec.ClusterIP != corev1.ClusterIPNone || !s.Spec.PublishNotReadyAddresses || s.Spec.Ports[0].Port != dns.Port {
					t.Errorf("prometheus.yml does not find all of %s: %+v", name, s)
				}
			}
		}
	}
}

func opsCheckPod(t *testing.T, c opsCluster, name string, pod *corev1.PodSpec, args []string) {
	t.Helper()
	if len(pod.Containers) != 1 || !slices.Equal(pod.Containers[0].Args, args) {
		t.Fatalf("%s runs %+v", name, pod.Containers)
	}
	if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks || pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken ||
		pod.SecurityContext == nil || pod.SecurityContext.RunAsNonRoot == nil || !*pod.SecurityContext.RunAsNonRoot || pod.SecurityContext.SeccompProfile == nil {
		t.Errorf("%s is not shut in", name)
	}
	main := &pod.Containers[0]
	if s := main.SecurityContext; s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
		s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("the container of %s is not shut in", name)
	}
	if main.Resources.Requests.Cpu().IsZero() || main.Resources.Requests.Memory().IsZero() || main.Resources.Limits.Memory().IsZero() {
		t.Errorf("%s has the resources %v", name, main.Resources)
	}
	var settings, secrets []string
	for _, from := range main.EnvFrom {
		if from.ConfigMapRef != nil {
			settings = append(settings, from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			secrets = append(secrets, from.SecretRef.Name)
		}
	}
	secret := "telemetra"
	if name == "gateway" || name == "api" { // their role of Postgres may read and nothing else
		secret = "telemetra-reader"
	}
	if len(settings) != 1 || c.maps[settings[0]] == nil || !slices.Equal(secrets, []string{secret}) {
		t.Errorf("%s has its settings from %v and %v", name, settings, secrets)
	}
}

// opsCheckLife looks whether a process is found when it is ready, and has the time to end.
func opsCheckLife(t *testing.T, role string, pod *corev1.PodSpec, drain time.Duration) {
	t.Helper()
	main := &pod.Containers[0]
	var pause time.Duration
	if main.Lifecycle != nil {
		pause = time.Duration(main.Lifecycle.PreStop.Sleep.Seconds) * time.Second
	}
	if (pause > 0) != (role == "gateway") {
		t.Errorf("%s waits for %s before it is told to end", role, pause)
	}
	grace, least := time.Duration(*pod.TerminationGracePeriodSeconds)*time.Second, pause+drain+opsRest*time.Second
	if grace <= least {
		t.Errorf("%s has %s to end, and needs %s", role, grace, least)
	}
	for path, probe := range map[string]*corev1.Probe{"/readyz": main.ReadinessProbe, "/health": main.LivenessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port != intstr.FromString("http") {
			t.Errorf("%s is not asked for %s", role, path)
		}
	}
	if len(main.Ports) != 1 || main.Ports[0].Name != "http" || main.Ports[0].ContainerPort != 8000 {
		t.Errorf("%s has the ports %v", role, main.Ports)
	}
}

func opsCheckScalers(t *testing.T, c opsCluster) {
	t.Helper()
	for name, s := range c.scalers {
		target := s.Spec.ScaleTargetRef
		if target.APIVersion != "apps/v1" || target.Kind != "Deployment" || c.deployments[target.Name] == nil {
			t.Errorf("%s scales %+v", name, target)
		}
		for _, m := range s.Spec.Metrics {
			if m.Pods == nil {
				continue
			}
			most, err := strconv.ParseInt(c.maps["telemetra"].Data["WS_MAX_CONNECTIONS"], 10, 64)
			if at := m.Pods.Target.AverageValue; err != nil || at == nil || at.Value() >= most {
				t.Errorf("%s adds a gateway at %v sockets of %d", name, at, most)
			}
			if !slices.ContainsFunc(opsTable(t), func(r opsRow) bool { return r.name == m.Pods.Metric.Name && r.kind == "gauge" }) {
				t.Errorf("%s goes by %s, which there is not", name, m.Pods.Metric.Name)
			}
		}
	}
}

// opsRoute is the service that an ingress sends a path to, or "". The longest path wins, and
// a prefix is one of whole segments.
func opsRoute(paths []networkingv1.HTTPIngressPath, path string) (service string) {
	longest := -1
	for _, p := range paths {
		prefix := strings.TrimSuffix(p.Path, "/")
		exact := *p.PathType == networkingv1.PathTypeExact
		matches := path == p.Path || !exact && (path == prefix || strings.HasPrefix(path, prefix+"/"))
		switch length := len(p.Path); {
		case !matches:
		case exact:
			return p.Backend.Service.Name
		case length > longest:
			longest, service = length, p.Backend.Service.Name
		}
	}
	return service
}

// opsCheckIngress looks whether what the processes serve is reached from outside, and
// nothing that is for operators.
func opsCheckIngress(t *testing.T, c opsCluster) {
	t.Helper()
	rules := c.ingresses["telemetra"].Spec.Rules
	if len(rules) != 1 {
		t.Fatalf("the ingress has %d rules", len(rules))
	}
	paths := rules[0].HTTP.Paths
	for _, p := range paths {
		if s := c.services[p.Backend.Service.Name]; s == nil || s.Spec.Ports[0].Name != p.Backend.Service.Port.Name {
			t.Errorf("%s leads to %+v", p.Path, p.Backend.Service)
		}
	}
	for service, reached := range map[string][]string{
		"telemetra-api": {
			"/", "/docs", "/docs/swagger-ui.css", "/redoc", "/redoc/start.js", "/openapi.json", "/asyncapi.yaml", "/console", "/console/",
			"/console/app.js", "/api/v1/health", "/api/v1/streams", "/api/v1/streams/demo_stream/metrics",
		},
		"telemetra-gateway": {"/ws/live", "/ws/live/demo_stream", "/sse/live/demo_stream"},
		"":                  {"/metrics", "/debug", "/debug/pprof/", "/readyz", "/health", "/consoles", "/anything"},
	} {
		for _, path := range reached {
			if got := opsRoute(paths, path); got != service {
				t.Errorf("the ingress sends %s to %q, not to %q", path, got, service)
			}
		}
	}
}
