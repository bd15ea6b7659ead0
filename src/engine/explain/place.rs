//! Which step is the same step, across edits: by Dockerfile, stage, text and position.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use solver::graph::{Graph, Vertex, VertexId};

/// Where a step stands in its Dockerfile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Whose Dockerfile it is: where the client's context is.
    pub project: String,
    /// The Dockerfile, as it is shown.
    pub file: String,
    /// The stage's name; empty for the only one.
    pub stage: String,
    /// The platform, where several are built.
    pub platform: String,
    /// Which of the stage's steps, as it is shown; 0 where the step has no number.
    pub step: u32,
    /// The instruction as it was written, variables and all.
    pub text: String,
    /// How many steps of the stage with this text come before it.
    pub nth: u32,
    /// How many steps of the stage with this keyword come before it.
    pub keyword_nth: u32,
}

/// How far from its place an instruction with another text is looked for.
const NEAR: u32 = 8;

/// Of larger graphs steps are not counted.
const MOST_COUNTED: usize = 2000;

/// The places of all vertices of one graph.
#[derive(Debug)]
pub(crate) struct Places(HashMap<VertexId, Place>);

impl Places {
    /// Looks at a graph once. Of a very large one nothing is kept: there equal instructions are not told apart.
    pub fn of(graph: &Graph, project: &str) -> Places {
        let mut counts: HashMap<(String, String, String), u32> = HashMap::new();
        let mut count = |place: &Place, what: String| {
            let count = counts.entry((place.stage.clone(), place.platform.clone(), what)).or_default();
            std::mem::replace(count, *count + 1)
        };
        let looked_at = if graph.vertices().len() > MOST_COUNTED { &[] } else { graph.vertices() };
        let place = |vertex: &Vertex| {
            let mut place = Place::alone(vertex, project);
            place.nth = count(&place, place.text.clone());
            place.keyword_nth = count(&place, format!("\0{}", keyword(&place.text)));
            (vertex.id, place)
        };
        Places(looked_at.iter().map(place).collect())
    }

    /// The place of a vertex of that graph.
    pub fn place(&self, vertex: &Vertex, project: &str) -> Place {
        self.0.get(&vertex.id).cloned().unwrap_or_else(|| Place::alone(vertex, project))
    }

    /// Those of steps, by vertex; none of a very large graph.
    pub fn iter(&self) -> impl Iterator<Item = (&VertexId, &Place)> {
        self.0.iter()
    }
}

impl Place {
    /// The place of a vertex that nothing is like.
    fn alone(vertex: &Vertex, project: &str) -> Place {
        let (Head { stage, platform, step }, text) = (Head::of(vertex), text(vertex));
        let file = vertex.origin.as_ref().and_then(|origin| origin.locations.first());
        let file = file.map(|location| location.source.filename.clone()).unwrap_or_default();
        Place { project: project.to_owned(), file, stage, platform, step, text, nth: 0, keyword_nth: 0 }
    }

    /// The words by which this very step is found again.
    pub fn name(&self) -> String {
        let Place { project, file, stage, platform, text, nth, .. } = self;
        format!("step\0{project}\0{file}\0{platform}\0{stage}\0{text}\0{nth}")
    }

    /// The instruction in a [`name`](Place::name).
    pub fn text_in(name: &str) -> Option<&str> {
        name.strip_prefix("step\0")?.split('\0').nth(4)
    }

    /// Other words by which it is found when nothing has its name.
    pub fn aliases(&self) -> Vec<String> {
        vec![self.nearby(self.keyword_nth), self.elsewhere()]
    }

    /// The words by which steps like it are looked for, the likeliest first.
    pub fn search(&self) -> impl Iterator<Item = String> + '_ {
        let offsets = std::iter::once(0).chain((1..=NEAR).flat_map(|far| [-i64::from(far), i64::from(far)]));
        let nearby = offsets.filter_map(|offset| u32::try_from(i64::from(self.keyword_nth) + offset).ok());
        let nearby = nearby.map(|nth| self.nearby(nth));
        std::iter::once(self.name()).chain(nearby).chain([self.elsewhere()])
    }

    /// The instruction of this keyword at this place, whatever its text.
    fn nearby(&self, nth: u32) -> String {
        let Place { project, file, stage, text, .. } = self;
        format!("near\0{project}\0{file}\0{stage}\0{}\0{nth}", keyword(text))
    }

    /// The same instruction of the same Dockerfile in another directory.
    fn elsewhere(&self) -> String {
        let Place { file, stage, text, nth, .. } = self;
        format!("like\0{file}\0{stage}\0{text}\0{nth}")
    }

    /// Whether a person sees one step in both.
    pub fn is_same_step(&self, other: &Place) -> bool {
        self.step != 0 && (self.step, &self.stage, &self.platform) == (other.step, &other.stage, &other.platform)
    }

    /// What a person calls it, seen from another step.
    pub fn seen_from(&self, other: &Place) -> String {
        match (self.step, &*self.stage) {
            (0, _) => self.text.clone(),
            (step, stage) if stage == other.stage => format!("step {step}"),
            (step, stage) => format!("step {step} of {stage}"),
        }
    }
}

/// Whether an instruction of this text still stands in the stage.
pub(crate) fn has_text(graph: &Graph, stage: &str, wanted: &str) -> bool {
    graph.vertices().iter().any(|vertex| Head::of(vertex).stage == stage && text(vertex) == wanted)
}

/// The instruction as it was written; what has none goes by its name.
fn text(vertex: &Vertex) -> String {
    let command = vertex.hints.description.get("com.docker.dockerfile.v1.command").map(String::as_str);
    command.or(vertex.hints.name()).map_or_else(|| vertex.id.to_string(), str::to_owned)
}

fn keyword(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase()
}

/// What stands in brackets before a step's name: `[linux/amd64 build 3/7]`.
#[derive(Default)]
struct Head {
    stage: String,
    platform: String,
    step: u32,
}

impl Head {
    fn of(vertex: &Vertex) -> Head {
        let name = vertex.hints.name().unwrap_or_default();
        let inside = name.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(inside, _)| inside);
        let mut words: Vec<&str> = inside.unwrap_or_default().split(' ').collect();
        let number = words.pop().and_then(|last| last.split_once('/')?.0.parse().ok());
        let Some(step) = number else { return Head::default() };
        let platform = match words.first() {
            Some(first) if first.contains('/') => words.remove(0).to_owned(),
            _ => String::new(),
        };
        Head { stage: words.join(" "), platform, step }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solver::graph::op::SourceOp;
    use solver::graph::{GraphBuilder, Hints, NewVertex, Op, OutputIndex, OutputRef};

    #[test]
    fn equal_instructions_are_told_apart_by_their_order() {
        let mut builder = GraphBuilder::new();
        let mut targets = Vec::new();
        for (name, text) in [
            ("[linux/amd64 build 2/4] RUN make", "RUN make"),
            ("[linux/amd64 build 3/4] RUN test", "RUN test"),
            ("[linux/amd64 build 4/4] RUN make", "RUN make"),
            ("[linux/amd64 stage-1 2/2] RUN make", "RUN make"),
        ] {
            let description = [("llb.customname", name), ("com.docker.dockerfile.v1.command", text)]
                .map(|(k, v)| (k.into(), v.into()));
            let hints = Hints { description: description.into(), ..Hints::default() };
            let op = Op::Source(SourceOp { identifier: format!("local://{name}"), attrs: Default::default() });
            let vertex = builder.add(NewVertex { op, inputs: vec![], platform: None, hints, origin: None });
            targets.push(OutputRef { vertex, output: OutputIndex(0) });
        }
        let graph = builder.finish(targets).unwrap();
        let all = Places::of(&graph, "/p");
        let places: Vec<Place> = graph.vertices().iter().map(|vertex| all.place(vertex, "/p")).collect();
        let told: Vec<_> = places.iter().map(|p| (&*p.stage, &*p.platform, p.step, p.nth, p.keyword_nth)).collect();
        assert_eq!(
            told,
            [
                ("build", "linux/amd64", 2, 0, 0),
                ("build", "linux/amd64", 3, 0, 1),
                ("build", "linux/amd64", 4, 1, 2),
                ("stage-1", "linux/amd64", 2, 0, 0),
            ]
        );
        assert_eq!(
            (places[0].seen_from(&places[1]), places[3].seen_from(&places[1])),
            ("step 2".into(), "step 2 of stage-1".into())
        );
        assert_eq!(Place::text_in(&places[1].name()), Some("RUN test"));
        assert!(places[2].search().nth(2).unwrap() == places[1].aliases()[0], "the nearest of the keyword comes next");
    }
}
